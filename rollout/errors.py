"""What can go wrong in a rollout, typed once; the command ends with the message and no traceback."""

from predictor.errors import PredictorError


class RolloutError(PredictorError):
    """Base of what stops a rollout; the message says what to do."""


class InvalidPlan(RolloutError):
    """Steps, times or the model can't be used as given."""


class ServiceNotFound(RolloutError):
    """There is no such InferenceService."""


class UnsuitableService(RolloutError):
    """The InferenceService is in no state, or of no shape, that a rollout can start from."""


class MissingRights(RolloutError):
    """The user may not do everything that a rollout does."""


class RolloutInProgress(RolloutError):
    """The service has a rollout already."""


class NoRollout(RolloutError):
    """There is no rollout that the command could act on."""


class NotPossibleNow(RolloutError):
    """The rollout is in a state in which this can't be done."""


class ForeignChange(RolloutError):
    """Somebody else changed the service while a rollout was going on."""


class Superseded(RolloutError):
    """Another command moved the rollout meanwhile; look again."""


class ClusterUnreachable(RolloutError):
    """The Kubernetes API doesn't answer, or refuses what it is asked."""


class ClusterAway(ClusterUnreachable):
    """The Kubernetes API gives no answer at all, or says that it can't now; it may soon."""
