"""A peer in a process of its own: sends files one after the other, each until it is acknowledged.

    python modality.py PORT SEED SENT_TWICE FOLDER

Prints a line per acknowledged file, "refused STATUS" for every other answer; ends after the file at hand
when its standard input ends. Now and then (SENT_TWICE is the chance) it sends a file twice.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

PAUSE_S = 0.05


def statuses_of(port: int, image: Dataset, times: int) -> list[int | None]:
    """Send an image over an association of its own; return the answers, None for none."""
    entity = AE("MODALITY")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    entity.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="CXR")
    statuses: list[int | None] = []
    try:
        while association.is_established and len(statuses) < times:
            statuses.append(association.send_c_store(image).get("Status"))
        if association.is_established:
            association.release()
        association.join(60)
    except RuntimeError:  # pynetdicom's way to say that there is no association, or no longer
        pass
    return statuses


def main() -> None:
    port, chance, sent_twice = int(sys.argv[1]), random.Random(int(sys.argv[2])), float(sys.argv[3])
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    for path in sorted(Path(sys.argv[4]).iterdir()):
        image = dcmread(path)
        while True:
            statuses = statuses_of(port, image, 2 if chance.random() < sent_twice else 1)
            for status in statuses:
                if status:
                    print(f"refused 0x{status:04X}", flush=True)
            time.sleep(PAUSE_S)
            if 0x0000 in statuses:
                break
        print(path.name, flush=True)
        if stop.is_set():
            return


if __name__ == "__main__":
    main()
