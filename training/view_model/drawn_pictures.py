"""Drawn pictures that are no chest radiographs: noise, pages of text, limbs, hands, slices, patterns.

They substitute for radiographs of other parts of the body, of which few are public; the card counts them as
drawn. Each picture is a function of (seed, number).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.inputs.augment import generator

Grey = NDArray[np.float32]
Random = np.random.Generator

_LETTERS: Final = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.:-/%"))


def draw(size: int, *, seed: int, number: int) -> tuple[str, Grey]:
    """Draw one picture.

    Parameters
    ----------
    size
        Rows and columns.
    seed, number
        Of the picture; the kind is the number modulo the number of kinds.

    Returns
    -------
    tuple
        Name of its kind; float32 (size, size) in [0, 1].
    """
    kind = tuple(KINDS)[number % len(KINDS)]
    random = generator(seed, 0, number)
    canvas = KINDS[kind](4 * size, random)
    small = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if kind not in ("page", "pattern"):
        small = small + random.normal(0, random.uniform(0, 0.03), small.shape).astype(np.float32)
    if random.random() < 0.2:
        small = 1 - small
    return kind, np.clip(small, 0, 1).astype(np.float32)


def _noise(size: int, random: Random) -> Grey:
    """Draw noise of a random grain size."""
    grain = int(random.choice([4, 8, 16, 32, 64]))
    coarse = random.random((max(2, size // grain), max(2, size // grain)), np.float32)
    fine: Grey = cv2.resize(
        coarse, (size, size), interpolation=int(random.choice([cv2.INTER_NEAREST, cv2.INTER_CUBIC]))
    )
    return fine * np.float32(random.uniform(0.3, 1)) + np.float32(random.uniform(-0.1, 0.3))


def _page(size: int, random: Random) -> Grey:
    """Draw lines of letters on a uniform background, some with a box."""
    ground, ink = (1.0, 0.0) if random.random() < 0.6 else (float(random.uniform(0, 0.3)), 1.0)
    page = np.full((size, size), ground, np.float32)
    scale = float(random.uniform(0.4, 1.6))
    step = max(8, int(34 * scale))
    left = int(random.uniform(0.02, 0.15) * size)
    for top in range(step + int(random.uniform(0, 0.2) * size), int(random.uniform(0.5, 1) * size), step):
        if random.random() < 0.12:
            continue
        text = "".join(random.choice(_LETTERS, int(random.integers(4, 60))))
        cv2.putText(page, text, (left, top), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, max(1, round(1.5 * scale)))
    if random.random() < 0.4:
        corner = random.integers(0, size // 2, 2)
        cv2.rectangle(page, corner.tolist(), (corner + random.integers(20, size // 2, 2)).tolist(), ink, 3)
    return page


def _pattern(size: int, random: Random) -> Grey:
    """Draw a test pattern: a ramp, bars, a uniform grey, or circles."""
    kind = int(random.integers(4))
    across, down = np.meshgrid(np.linspace(0, 1, size, dtype=np.float32), np.linspace(0, 1, size, dtype=np.float32))
    angle = random.uniform(0, 2 * np.pi)
    along = (across * np.cos(angle) + down * np.sin(angle)).astype(np.float32)
    if kind == 0:
        ramp: Grey = (along - along.min()) / np.ptp(along)
        return ramp
    if kind == 1:
        bars: Grey = (np.sin(along * random.uniform(10, 120)) > 0).astype(np.float32)
        return bars
    if kind == 2:
        return np.full((size, size), random.random(), np.float32)
    board = np.full((size, size), random.random(), np.float32)
    for _ in range(int(random.integers(1, 12))):
        middle, radius = random.integers(0, size, 2).tolist(), int(random.integers(5, size // 3))
        cv2.circle(board, middle, radius, float(random.random()), -1 if random.random() < 0.6 else 4)
    return board


def _limb(size: int, random: Random) -> Grey:
    """Draw a limb with one or two bones and a joint, at any angle."""
    film = np.full((size, size), random.uniform(0, 0.2), np.float32)
    length, width = random.uniform(0.9, 1.6) * size, random.uniform(0.14, 0.6) * size
    _rod(film, size, 0, length, width, random.uniform(0.3, 0.6), taper=random.uniform(0.6, 1.4))
    bones = int(random.integers(1, 3))
    joint = random.uniform(-0.25, 0.25) * size
    for bone in range(bones):
        aside = 0 if bones == 1 else (bone - 0.5) * width * 0.7
        thick = width * random.uniform(0.16, 0.4) / (1 if bones == 1 else 1.5)
        for sign in (-1, 1):
            middle = joint + sign * (length / 4 + 0.02 * size)
            _rod(film, size, aside, length / 2, thick, 0.85, middle=middle)
            _ball(film, size, aside, joint + sign * 0.05 * size, thick * random.uniform(0.6, 0.95), 0.8)
        _rod(film, size, aside, length, thick * 0.45, 0.6)
    if random.random() < 0.3:  # a hip or a shoulder, where the limb ends in the trunk
        _ball(film, size, random.uniform(-0.3, 0.3) * size, 0.5 * size, random.uniform(0.3, 0.5) * size, 0.7)
    return shuttered(_turned(_tissue(film, random), random.uniform(0, 360), random), random)


def _hand(size: int, random: Random) -> Grey:
    """Draw a palm and five fingers with their bones."""
    film = np.full((size, size), random.uniform(0, 0.12), np.float32)
    spread, palm = random.uniform(8, 22), random.uniform(0.13, 0.2) * size
    _ball(film, size, 0, 0.12 * size, palm * 1.15, 0.4)
    for finger in range(5):
        angle = np.deg2rad((finger - 2) * spread + random.normal(0, 2))
        reach = size * random.uniform(0.42, 0.5) * (0.72 if finger in (0, 4) else 1)
        root = np.array([size / 2 + np.sin(angle) * 0.4 * palm, 0.68 * size])
        tip = root + reach * np.array([np.sin(angle), -np.cos(angle)])
        cv2.line(film, *_ends(root, tip), 0.42, int(0.075 * size), cv2.LINE_AA)
        for begin, end in ((0.02, 0.38), (0.42, 0.68), (0.71, 0.86), (0.88, 0.98)):
            bone = _ends(root + begin * (tip - root), root + end * (tip - root))
            cv2.line(film, *bone, 0.8, int(random.uniform(0.025, 0.038) * size), cv2.LINE_AA)
    return shuttered(_turned(_tissue(film, random), random.uniform(0, 360), random), random)


def _slice(size: int, random: Random) -> Grey:
    """Draw an axial slice: an ellipse with organs and a spine on black."""
    film = np.zeros((size, size), np.float32)
    axes = (int(random.uniform(0.28, 0.47) * size), int(random.uniform(0.2, 0.4) * size))
    middle = (size // 2, int(random.uniform(0.45, 0.55) * size))
    is_head = random.random() < 0.3
    cv2.ellipse(film, middle, axes, 0, 0, 360, 0.95 if is_head else 0.35, -1, cv2.LINE_AA)
    inner = tuple(int(axis * (0.9 if is_head else 0.93)) for axis in axes)
    cv2.ellipse(film, middle, inner, 0, 0, 360, float(random.uniform(0.4, 0.6)), -1, cv2.LINE_AA)
    for _ in range(int(random.integers(3, 14))):
        centre = tuple(int(middle[k] + random.uniform(-0.65, 0.65) * axes[k]) for k in (0, 1))
        organ = tuple(int(random.uniform(0.05, 0.35) * axis) for axis in axes)
        cv2.ellipse(film, centre, organ, random.uniform(0, 180), 0, 360, float(random.uniform(0, 0.9)), -1, cv2.LINE_AA)
    if not is_head:
        spine = (middle[0], middle[1] + int(0.6 * axes[1]))
        cv2.circle(film, spine, int(0.14 * axes[1] + 0.05 * size), 0.95, -1, cv2.LINE_AA)
    if random.random() < 0.5:
        cv2.ellipse(film, (middle[0], middle[1] + axes[1]), (axes[0], 30), 0, 20, 160, 0.5, 5, cv2.LINE_AA)
    blurred: Grey = cv2.GaussianBlur(film, (0, 0), random.uniform(1, size / 120))
    return blurred


def _blobs(size: int, random: Random) -> Grey:
    """Draw soft random shapes."""
    film = np.full((size, size), random.uniform(0, 0.7), np.float32)
    for _ in range(int(random.integers(3, 15))):
        centre, axes = random.integers(0, size, 2).tolist(), random.integers(size // 20, size // 2, 2).tolist()
        cv2.ellipse(film, centre, axes, random.uniform(0, 180), 0, 360, float(random.random()), -1)
    blurred: Grey = cv2.GaussianBlur(film, (0, 0), random.uniform(2, size / 12))
    return blurred


KINDS: Final[Mapping[str, Callable[[int, Random], Grey]]] = MappingProxyType(
    {
        "noise": _noise,
        "page": _page,
        "pattern": _pattern,
        "limb": _limb,
        "hand": _hand,
        "slice": _slice,
        "blobs": _blobs,
    }
)
"""Kind of picture to its function."""


def _rod(
    film: Grey,
    size: int,
    aside: float,
    length: float,
    width: float,
    grey: float,
    *,
    middle: float = 0,
    taper: float = 1,
) -> None:
    """Draw an upright bar, `width` wide at its upper end and `width` times `taper` at its lower end."""
    x, y = size / 2 + aside, size / 2 + middle
    top, bottom = width / 2, width * taper / 2
    corners = [(x - top, y - length / 2), (x + top, y - length / 2), (x + bottom, y + length / 2)]
    corners.append((x - bottom, y + length / 2))
    cv2.fillPoly(film, [np.array(corners).round().astype(np.int32)], grey, cv2.LINE_AA)


def _ball(film: Grey, size: int, aside: float, down: float, radius: float, grey: float) -> None:
    middle = (round(size / 2 + aside), round(size / 2 + down))
    cv2.circle(film, middle, max(1, round(radius)), grey, -1, cv2.LINE_AA)


def _ends(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[tuple[int, int], tuple[int, int]]:
    ends = [(round(float(end[0])), round(float(end[1]))) for end in (first, second)]
    return ends[0], ends[1]


def _tissue(film: Grey, random: Random) -> Grey:
    """Blur a drawing, and multiply it with the uneven grey of tissue."""
    size = len(film)
    grain = cv2.resize(random.random((12, 12), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(random.random((70, 70), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(film, (0, 0), size / random.uniform(70, 180))
    uneven: Grey = soft * (0.75 + 0.4 * grain + random.uniform(0, 0.25) * (fine - 0.5))
    return uneven.astype(np.float32)


def shuttered(film: Grey, random: Random) -> Grey:
    """Cover random margins with a uniform grey, mostly black or white, like a collimator's shutters.

    Parameters
    ----------
    film
        float32 (size, size).
    random
        Generator of sides, widths and greys.
    """
    size = len(film)
    for side in range(4):
        if random.random() < 0.3:
            film = np.rot90(film, side).copy()
            film[: int(random.uniform(0.03, 0.3) * size)] = random.choice([0.0, 1.0, random.random()])
            film = np.rot90(film, -side).copy()
    return film


def _turned(film: Grey, degrees: float, random: Random) -> Grey:
    size = len(film)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, random.uniform(0.7, 1.3))
    matrix[:, 2] += random.uniform(-0.12, 0.12, 2) * size
    turned: Grey = cv2.warpAffine(film, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    return turned
