"""Which destinations a result goes to, and which it never goes back to."""

from __future__ import annotations

import pytest

from config.settings import DestinationSettings
from cxr.domain import PackageStatus
from inference.delivery.routes import destinations_for, results_for


def destination(name: str, address: str = "PACS@10.0.0.1:104", **settings: object) -> DestinationSettings:
    values: dict[str, object] = {"name": name, "kind": "dicom", "address": address}
    return DestinationSettings.model_validate(values | settings)


PACS = destination("pacs")
ORTHANC = destination("orthanc", "ORTHANC@127.0.0.1:4242")
BOUND = destination("bound", "ORTHANC@127.0.0.1:4242", from_peers=("ORTHANC", "SECOND"))
WEB = destination("web", "https://pacs/dicom-web", kind="stow")
FOLDER = destination("folder", "/srv/results", kind="folder")
ALL = (PACS, ORTHANC, BOUND, WEB, FOLDER)


@pytest.mark.parametrize(
    ("peer_ae_title", "names"),
    [
        ("MODALITY", ["pacs", "orthanc", "web", "folder"]),
        ("ORTHANC", ["pacs", "bound", "web", "folder"]),
        ("SECOND", ["pacs", "orthanc", "bound", "web", "folder"]),
        ("PACS", ["orthanc", "web", "folder"]),
        ("orthanc", ["pacs", "orthanc", "web", "folder"]),  # AE titles are case-sensitive, PS3.5 Table 6.2-1
        (None, ["pacs", "orthanc", "web", "folder"]),
    ],
)
def test_destinations_of_a_result(peer_ae_title: str | None, names: list[str]) -> None:
    assert [chosen.name for chosen in destinations_for(peer_ae_title, ALL)] == names


@pytest.mark.parametrize(
    ("peer_ae_title", "senders", "names"),
    [
        ("MODALITY", {"ORTHANC"}, ["pacs", "web", "folder"]),  # not to ORTHANC, which sent it and is not bound
        ("SECOND", {"ORTHANC"}, ["pacs", "bound", "web", "folder"]),
        ("PACS", {"ORTHANC"}, ["web", "folder"]),
        ("MODALITY", {"OTHER", "ORTHANC", "PACS"}, ["web", "folder"]),
    ],
)
def test_a_result_goes_back_to_nobody_who_sent_the_image_before(
    peer_ae_title: str, senders: set[str], names: list[str]
) -> None:
    chosen = destinations_for(peer_ae_title, ALL, senders=senders)
    assert [destination.name for destination in chosen] == names


@pytest.mark.parametrize(
    ("status", "deliver_untrained", "names"),
    [
        (PackageStatus.EVALUATED, False, ("bound",)),
        (PackageStatus.DEMONSTRATION, False, ("bound",)),
        (PackageStatus.UNTRAINED, False, ()),
        (PackageStatus.UNTRAINED, True, ("bound",)),
    ],
)
def test_an_untrained_network_s_results_stay_here_unless_wished(
    status: PackageStatus, deliver_untrained: bool, names: tuple[str, ...]
) -> None:
    assert results_for("ORTHANC", (ORTHANC, BOUND), status=status, deliver_untrained=deliver_untrained) == names


def test_no_destinations() -> None:
    assert destinations_for("ORTHANC", ()) == ()
