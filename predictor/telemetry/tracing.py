"""OpenTelemetry spans of requests, sent over OTLP. Needs the extra `otel`.

Attributes follow the conventions for generative AI:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.engine.sequence import Sequence
from predictor.telemetry.finished import FinishedRequest

GENERATION = gen_ai.GenAiOperationNameValues.TEXT_COMPLETION.value
EMBEDDING = gen_ai.GenAiOperationNameValues.EMBEDDINGS.value
PROVIDER = "kserve-llamacpp"
LAST_SPANS_SECONDS = 2  # of the pod's grace period


class RequestTracer:
    """Makes a span of every request that has ended, with its phases as children.

    The sampler, the service's name and the exporter's headers come from OpenTelemetry's own environment
    variables, such as OTEL_TRACES_SAMPLER.

    Args:
        model_name: the name in requests.
        endpoint: where an OTLP collector takes traces over HTTP, with its path.
        generates: whether the model's output is text; its spans say otherwise that texts are embedded.
    """

    def __init__(self, model_name: str, endpoint: str, *, generates: bool = True) -> None:
        self._model_name = model_name
        self._generates = generates
        self._operation = GENERATION if generates else EMBEDDING
        name = os.environ.get("OTEL_SERVICE_NAME", PROVIDER)
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._provider = provider
        self._tracer = provider.get_tracer(PROVIDER)
        atexit.register(self.close)

    def finished(self, sequence: Sequence, request: FinishedRequest, now: float) -> None:
        """Send the spans of a request that ended at `now`, as children of its caller's span."""
        offset = time.time() - time.monotonic()

        def clock(seconds: float) -> int:
            return int((seconds + offset) * 1e9)

        parent = sequence.context.run(context.get_current)
        span = self._tracer.start_span(
            f"{self._operation} {self._model_name}",
            parent,
            SpanKind.SERVER,
            self._attributes(sequence, request),
            start_time=clock(sequence.arrived),
        )
        if span.is_recording():
            inside = trace.set_span_in_context(span, parent)
            for name, start, end in _phases(sequence, now):
                phase = self._tracer.start_span(name, inside, start_time=clock(start))
                phase.end(clock(end))
        if request.reason == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end(clock(now))

    def close(self) -> None:
        """Send what is left, unless the collector takes too long."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(LAST_SPANS_SECONDS)

    def _attributes(self, sequence: Sequence, request: FinishedRequest) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            gen_ai.GEN_AI_OPERATION_NAME: self._operation,
            gen_ai.GEN_AI_PROVIDER_NAME: PROVIDER,
            gen_ai.GEN_AI_REQUEST_MODEL: self._model_name,
            gen_ai.GEN_AI_RESPONSE_MODEL: self._model_name,
            gen_ai.GEN_AI_RESPONSE_ID: request.id,
            gen_ai.GEN_AI_USAGE_INPUT_TOKENS: request.prompt_tokens,
            gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: [request.reason],
        }
        if self._generates:
            params = sequence.request.params
            attributes |= {
                gen_ai.GEN_AI_REQUEST_MAX_TOKENS: sequence.max_tokens,
                gen_ai.GEN_AI_REQUEST_TEMPERATURE: params.temperature,
                gen_ai.GEN_AI_REQUEST_TOP_P: params.top_p,
                gen_ai.GEN_AI_REQUEST_TOP_K: params.top_k,
                gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: request.completion_tokens,
                gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: request.cached_tokens,
            }
        if request.time_to_first_token is not None:
            attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = request.time_to_first_token
        return attributes


def _phases(sequence: Sequence, now: float) -> Iterator[tuple[str, float, float]]:
    """Name, start and end (monotonic seconds) of the phases that a request got to."""
    yield "queue", sequence.arrived, sequence.admitted or now
    if sequence.admitted:
        yield "prefill", sequence.admitted, sequence.first_token or now
    if sequence.first_token and sequence.max_tokens:
        yield "decode", sequence.first_token, sequence.last_token


@contextmanager
def continued_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Within the block, requests belong to the trace that W3C headers (`traceparent`) name, if they do."""
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


class TraceContext:
    """ASGI middleware: requests belong to their caller's trace."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with continued_trace(Headers(scope=scope)):
            await self.app(scope, receive, send)
