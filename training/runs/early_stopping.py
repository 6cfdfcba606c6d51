"""Early stopping, best weights and plateau schedule, decided after each epoch.

Keras's callbacks reset their state whenever ``fit`` begins; this state is part of the run's checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from training.recipe import Stage

_SMALLEST_STEP = 1e-4  # smaller improvements count as a plateau, as in Keras's ReduceLROnPlateau


@dataclass(frozen=True, slots=True)
class EpochDecision:
    """Decisions after an epoch: new best weights, a lower learning rate, the end of the stage."""

    is_best: bool
    reduces_rate: bool
    stops: bool


@dataclass(slots=True)
class Progress:
    """Best figures of a stage so far; ``document`` and ``from_document`` convert it for the checkpoint."""

    best: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    plateau_best: float | None = None
    plateau_waited: int = 0

    def update(self, stage: Stage, epoch: int, figures: dict[str, float]) -> EpochDecision:
        """Record an epoch's figures and decide.

        Parameters
        ----------
        stage
            Its ``monitor`` names the figure that counts: a loss is better lower, the others higher.
        epoch
            Its number within the stage.
        figures
            Of the validation images. ``val_loss`` breaks ties: with few images the AUC reaches 1 long
            before training has converged.
        """
        value, loss = figures[stage.monitor], figures["val_loss"]
        score = -value if stage.monitor == "val_loss" else value
        is_best = self.best is None or self.best_loss is None or (score, -loss) > (self.best, -self.best_loss)
        if is_best:
            self.best, self.best_loss, self.best_epoch, self.waited = score, loss, epoch, 0
        else:
            self.waited += 1
        reduces_rate = stage.schedule == "plateau" and self._is_plateau(stage, score)
        return EpochDecision(is_best, reduces_rate, 0 < stage.patience <= self.waited)

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
        """Convert to JSON types."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Progress:
        """Create from the result of ``document``."""
        return cls(**document)
