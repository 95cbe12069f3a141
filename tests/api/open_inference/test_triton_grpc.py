"""tritonclient over gRPC, synchronous and asynchronous, against a running server with a real model.

tritonclient and kserve define the same protocol-buffer names and can't live in one process, so everything
that imports tritonclient's gRPC client runs in a child.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from queue import Queue
from typing import Any

import numpy as np
import pytest
from occupied_server import ENDLESS, assert_freed, stream, wait_until_running
from repeatable import repeats
from server_process import Server

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
QUESTION = "What is the capital of France? Answer in one sentence."
GREEDY: dict[str, Any] = {"temperature": "0", "max_tokens": 12}
OUTPUTS = {"text": "BYTES", "finish_reason": "BYTES", "prompt_tokens": "INT32", "completion_tokens": "INT32"}

InChild = Callable[..., Any]


@pytest.fixture(scope="module")
def in_child() -> Iterator[InChild]:
    """Runs a function of this module in the child and raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=120)


class Client:
    """tritonclient's client for one server, with plain texts in and out."""

    def __init__(self, url: str, model: str) -> None:
        import tritonclient.grpc as triton

        self.triton = triton.InferenceServerClient(url)
        self.model = model

    def infer(self, *prompts: str, system: tuple[str, ...] = (), **parameters: Any) -> Any:
        inputs = [tensor("prompt", *prompts)] + ([tensor("system", *system)] if system else [])
        return self.triton.infer(self.model, inputs, request_id="call-1", parameters=parameters)

    def refused(self, *prompts: str, model: str | None = None, **parameters: Any) -> tuple[str, str]:
        """Status and message of a call that must fail."""
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException) as error:
            self.triton.infer(model or self.model, [tensor("prompt", *prompts)], parameters=parameters)
        return str(error.value.status()), str(error.value.message())


def tensor(name: str, *texts: str) -> Any:
    import tritonclient.grpc as triton

    made = triton.InferInput(name, [len(texts)], "BYTES")
    return made.set_data_from_numpy(np.array(texts, dtype=np.object_))


def texts(result: Any, name: str = "text") -> list[str]:
    return [item.decode() for item in result.as_numpy(name)]


def test_tensors_in_and_out(in_child: InChild, server: Server) -> None:
    in_child(check_tensors, server.grpc_url, server.model_name)


def check_tensors(url: str, model: str) -> None:
    result = Client(url, model).infer(COUNTING, "a, b, c, d, e, f,", **GREEDY)
    numbers, letters = texts(result)
    assert "13" in numbers
    assert "g" in letters
    assert texts(result, "finish_reason") == ["length", "length"]
    assert result.as_numpy("completion_tokens").tolist() == [12, 12]
    assert result.as_numpy("completion_tokens").dtype == np.int32
    assert (result.as_numpy("prompt_tokens") > 5).all()
    answer = result.get_response()
    assert (answer.id, answer.model_name) == ("call-1", model)
    assert {output.name: output.datatype for output in answer.outputs} == OUTPUTS


def test_sampling_parameters(in_child: InChild, server: Server) -> None:
    in_child(check_sampling, server.grpc_url, server.model_name)


def check_sampling(url: str, model: str) -> None:
    ask = Client(url, model).infer
    greedy = texts(ask(COUNTING, **GREEDY))
    assert texts(ask(COUNTING, temperature="0.0", max_tokens="12")) == greedy
    assert texts(ask(COUNTING, temperature=0, max_tokens=12, top_p="0.5")) == greedy
    assert texts(ask(COUNTING, temperature=0.0, max_tokens=12, top_p=0.5)) == greedy
    stopped = ask(COUNTING, temperature="0", max_tokens=60, stop="15")
    assert texts(stopped, "finish_reason") == ["stop"]
    assert "15" not in texts(stopped)[0]
    warm = {"temperature": "1.3", "max_tokens": 12, "top_p": "1"}
    story = "Once upon a time"
    assert repeats(lambda: texts(ask(story, **warm, seed=5)))
    assert texts(ask(story, **warm, seed=5)) != texts(ask(story, **warm, seed=6))
    long = ask(COUNTING, max_tokens=64, ignore_eos=True)
    assert long.as_numpy("completion_tokens").tolist() == [64]
    assert texts(ask(COUNTING, **GREEDY, logit_bias='{"100": 100}')) != greedy


def test_system_messages(in_child: InChild, server: Server) -> None:
    in_child(check_system_messages, server.grpc_url, server.model_name)


def check_system_messages(url: str, model: str) -> None:
    for system in (("You answer briefly.",), ("You answer briefly.", "You are kind.")):
        result = Client(url, model).infer(QUESTION, QUESTION, system=system, **(GREEDY | {"max_tokens": 24}))
        assert all("Paris" in text for text in texts(result))


def test_health_and_metadata(in_child: InChild, server: Server) -> None:
    in_child(check_metadata, server.grpc_url, server.model_name)


def check_metadata(url: str, model: str) -> None:
    client = Client(url, model).triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert client.get_server_metadata().name == "kserve"
    metadata = client.get_model_metadata(model)
    inputs = {item.name: (item.datatype, list(item.shape)) for item in metadata.inputs}
    assert inputs == {"prompt": ("BYTES", [-1]), "system": ("BYTES", [-1])}
    outputs = {item.name: (item.datatype, list(item.shape)) for item in metadata.outputs}
    assert outputs == {name: (datatype, [-1]) for name, datatype in OUTPUTS.items()}


@pytest.fixture
def tritons_own(platform: str) -> None:
    """What Triton has beyond the Open Inference Protocol."""
    if platform == "ray":
        pytest.skip("Ray Serve's gRPC proxy passes on the Open Inference Protocol's own calls only")


@pytest.mark.usefixtures("tritons_own")
def test_streams(in_child: InChild, server: Server) -> None:
    in_child(check_streams, server.grpc_url, server.model_name)


def check_streams(url: str, model: str) -> None:
    client, answers = Client(url, model), Queue[Any]()
    client.triton.start_stream(lambda result, error: answers.put((result, error)))
    for prompt in (COUNTING, "a, b, c, d, e, f,"):
        client.triton.async_stream_infer(
            model,
            [tensor("prompt", prompt)],
            request_id=prompt[0],
            parameters={"temperature": 0.0, "max_tokens": 12},
        )
    told: dict[str, list[Any]] = {"1": [], "a": []}
    while sum(bool(pieces and texts(pieces[-1], "finish_reason")[0]) for pieces in told.values()) < 2:
        result, error = answers.get(timeout=60)
        assert error is None
        told[result.get_response().id].append(result)
    client.triton.async_stream_infer(model, [tensor("prompt", "")], request_id="none")
    assert "the prompt is empty" in str(answers.get(timeout=60)[1])
    client.triton.stop_stream()
    whole = {name: "".join(texts(piece)[0] for piece in pieces) for name, pieces in told.items()}
    assert ["13" in whole["1"], "g" in whole["a"]] == [True, True]
    assert len(told["1"]) > 3
    assert texts(client.infer(COUNTING, **GREEDY)) == [whole["1"]]


@pytest.mark.usefixtures("tritons_own")
def test_what_triton_has_beyond_the_protocol(in_child: InChild, server: Server) -> None:
    in_child(check_extensions, server.grpc_url, server.model_name)


def check_extensions(url: str, model: str) -> None:
    client = Client(url, model)
    client.infer("Hi", **GREEDY)
    config = client.triton.get_model_config(model, as_json=True)["config"]
    assert (config["name"], config["backend"]) == (model, "llama.cpp")
    assert [item["name"] for item in config["output"]] == list(OUTPUTS)
    index = client.triton.get_model_repository_index(as_json=True)["models"]
    assert [(item["name"], item["state"]) for item in index] == [(model, "READY")]
    (statistics,) = client.triton.get_inference_statistics(model, as_json=True)["model_stats"]
    assert int(statistics["inference_count"]) >= 1
    assert int(statistics["inference_stats"]["success"]["ns"]) > 0


def test_errors_have_their_status_codes(in_child: InChild, server: Server) -> None:
    in_child(check_errors, server.grpc_url, server.model_name)


def check_errors(url: str, model: str) -> None:
    from tritonclient.utils import InferenceServerException

    client = Client(url, model)
    code, message = client.refused("Hi", max_token=3)
    assert (code, "unknown field 'max_token'" in message) == ("StatusCode.INVALID_ARGUMENT", True)
    code, message = client.refused("Hi", temperature=-0.5)
    assert (code, "temperature must be between" in message) == ("StatusCode.INVALID_ARGUMENT", True)
    code, message = client.refused("Hi", model="nope")
    assert (code, "nope" in message) == ("StatusCode.NOT_FOUND", True)
    for action in (client.triton.load_model, client.triton.unload_model):
        with pytest.raises(InferenceServerException, match="can't be loaded or unloaded") as error:
            action(model)
        assert str(error.value.status()) == "StatusCode.PERMISSION_DENIED"
    assert client.triton.is_model_ready(model)


def test_a_full_queue(in_child: InChild, narrow_server: Server) -> None:
    with stream(narrow_server), stream(narrow_server):
        in_child(check_refusal, narrow_server.grpc_url, narrow_server.model_name)


def check_refusal(url: str, model: str) -> None:
    code, message = Client(url, model).refused("Hi")
    assert (code, "the limit" in message) == ("StatusCode.RESOURCE_EXHAUSTED", True)


def test_a_cancelled_call_frees_its_sequence(in_child: InChild, narrow_server: Server) -> None:
    # The process handle of a `Server` stays here.
    in_child(check_cancellation, narrow_server.grpc_url, narrow_server.http_url, narrow_server.model_name)


def check_cancellation(url: str, http_url: str, model: str) -> None:
    server = Server(http_url, url, model, 0, None, None)  # type: ignore[arg-type]
    ended: Queue[Any] = Queue()
    running = Client(url, model).triton.async_infer(
        model,
        [tensor("prompt", "The sea")],
        lambda result, error: ended.put(error),
        parameters={"max_tokens": ENDLESS, "ignore_eos": True},
    )
    wait_until_running(server)
    assert_freed(server, running.cancel)
    assert "CANCELLED" in str(ended.get(timeout=10).status())


def test_the_asynchronous_client(in_child: InChild, server: Server) -> None:
    in_child(check_asynchronous, server.grpc_url, server.model_name)


def check_asynchronous(url: str, model: str) -> None:
    asyncio.run(_ask_four_times(url, model))


async def _ask_four_times(url: str, model: str) -> None:
    import tritonclient.grpc.aio as triton

    async with triton.InferenceServerClient(url) as client:
        assert await client.is_server_live()
        calls = (client.infer(model, [tensor("prompt", COUNTING)], parameters=GREEDY) for _ in range(4))
        assert all("13" in texts(result)[0] for result in await asyncio.gather(*calls))
