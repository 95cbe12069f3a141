"""The quick import of kserve, each time in a process of its own."""

import subprocess
import sys


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", f"from predictor.serving.deferred_imports import import_kserve\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_pandas_and_the_kubernetes_client_are_left_out() -> None:
    code = "import_kserve(); import sys; print(*(n in sys.modules for n in ('pandas', 'kubernetes')))"
    assert run(code) == "False False"


def test_data_frames_work_when_somebody_asks_for_one() -> None:
    assert (
        run(
            "import_kserve()\n"
            "from kserve import InferInput, InferRequest\n"
            "tensor = InferInput('a', [2], 'INT32', [1, 2])\n"
            "frame = InferRequest('m', [tensor]).as_dataframe()\n"
            "import pandas\n"
            "print(type(frame) is pandas.DataFrame, frame['a'].tolist())"
        )
        == "True [1, 2]"
    )


def test_an_earlier_import_stays_as_it_is() -> None:
    assert run("import kserve; import_kserve(); print(kserve.KServeClient.__module__)") == (
        "kserve.api.kserve_client"
    )


def test_other_modules_get_the_real_pandas() -> None:
    assert run("import_kserve(); import pandas.core.frame; print(pandas.DataFrame({'a': [1]}).a[0])") == "1"


def test_the_generated_classes_come_when_somebody_asks_for_one() -> None:
    code = (
        "import_kserve(); import sys; print(any(n.startswith('kserve.models') for n in sys.modules))\n"
        "from kserve import ApiException, V1beta1InferenceService\n"
        "print(ApiException.__module__, V1beta1InferenceService.__module__)"
    )
    assert run(code).split() == ["False", "kserve.exceptions", "kserve.models.v1beta1_inference_service"]
