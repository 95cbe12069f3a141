"""Every error a user can meet, typed once.

The classes say what went wrong; how each looks in HTTP, in the OpenAI form or in gRPC is decided in
`predictor.api.http.errors` alone. Messages are written for the person who must act on them.
"""


class PredictorError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what is wrong and what to do about it.
        param: the request field at fault, where there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(PredictorError):
    """The request can never succeed as it stands."""


class PromptTooLong(InvalidRequest):
    """The prompt does not fit into the context window."""


class NoChatTemplate(InvalidRequest):
    """Messages were sent to a model whose GGUF carries no chat template."""


class WrongTask(InvalidRequest):
    """Text was asked of a model that gives vectors, or the other way round."""


class ThreadsUnsupported(InvalidRequest):
    """The request counts on a conversation that the server is to keep; clients can send it whole instead."""


class RequestTooLarge(PredictorError):
    """The request body is over the size limit."""


class UnknownEncoding(PredictorError):
    """The request body is compressed in a way that this server can't undo."""


class Unauthenticated(PredictorError):
    """The call carries no API key, or one that this server doesn't know."""


class ModelNotFound(PredictorError):
    """The request names a model that this server does not serve."""


class Unavailable(PredictorError):
    """The server can't take the request now, but a later try may succeed.

    Args:
        message: what is wrong and what to do about it.
        retry_after: whole seconds after which a new try makes sense.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Unavailable):
    """The bounded queue of waiting requests is full."""


class RateLimited(Unavailable):
    """The caller's API key has reached one of its limits."""


class NotReady(Unavailable):
    """The model is still loading, or the server is shutting down."""


class EngineFailure(PredictorError):
    """llama.cpp failed in a way that no request caused."""


class StartupError(PredictorError):
    """The server can't start; the command ends with this message and no traceback."""


class ModelReferenceError(StartupError):
    """A model reference can't be turned into a local GGUF file."""


class ModelLoadError(StartupError):
    """The file is not a usable GGUF model, or it does not fit into memory."""


class ConversionError(PredictorError):
    """A model can't be converted as asked."""
