"""When to keep, when to slow down, when to stop: decided once an epoch, from one figure.

Keras's callbacks forget what they have seen whenever ``fit`` begins; these don't, since their state
goes into the run's checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from training.recipe import Stage

_SMALLEST_STEP = 1e-4  # what Keras's ReduceLROnPlateau calls no progress


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an epoch."""

    is_best: bool
    slows_down: bool
    stops: bool


@dataclass(slots=True)
class Progress:
    """What was reached so far in a stage; ``document`` and ``from_document`` carry it through a kill."""

    best: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    plateau_best: float | None = None
    plateau_waited: int = 0

    def see(self, stage: Stage, epoch: int, figures: dict[str, float]) -> Verdict:
        """Judge an epoch.

        Parameters
        ----------
        stage
            Its ``monitor`` says which figure counts: a loss falls, the others rise.
        epoch
            Its number within the stage.
        figures
            From the validation images; ``val_loss`` decides between epochs that are equal (an area
            of few images soon is as large as it can be, long before the network is trained).
        """
        value, loss = figures[stage.monitor], figures["val_loss"]
        score = -value if stage.monitor == "val_loss" else value
        is_best = self.best is None or self.best_loss is None or (score, -loss) > (self.best, -self.best_loss)
        if is_best:
            self.best, self.best_loss, self.best_epoch, self.waited = score, loss, epoch, 0
        else:
            self.waited += 1
        slows_down = stage.schedule == "plateau" and self._is_plateau(stage, score)
        return Verdict(is_best, slows_down, 0 < stage.patience <= self.waited)

    def _is_plateau(self, stage: Stage, score: float) -> bool:
        if self.plateau_best is None or score > self.plateau_best + _SMALLEST_STEP:
            self.plateau_best, self.plateau_waited = score, 0
            return False
        self.plateau_waited += 1
        if self.plateau_waited < stage.plateau_patience:
            return False
        self.plateau_waited = 0
        return True

    def document(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Progress:
        """Read what ``document`` gave."""
        return cls(**document)
