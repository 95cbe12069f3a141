"""What can go wrong in a rollout, typed once; the command ends with the message and no traceback."""

from predictor.errors import PredictorError


class RolloutError(PredictorError):
    """Base of what stops a rollout; the message says what to do."""
