"""Invoking functions through boto3, as on AWS, what goes wrong included."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.twin.cloud.cloud import Cloud
from tests.infra.twin.cloud.functions import Functions, client, create, invoke, publish

ECHO = """
def handler(event, head):
    print("seen", event)
    return {"event": event, "version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            "arn": head["Lambda-Runtime-Invoked-Function-Arn"], "pid": os.getpid()}
serve(handler)
"""


_DIES_WITH_ITS_PARENT = """
import ctypes, signal
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
serve(lambda event, head: {"pid": os.getpid()})
"""


def pids(cloud: Cloud, event: Any, count: int) -> set[int]:
    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(invoke, cloud, event=event) for _ in range(count)]
    return {call.result()[1]["pid"] for call in calls}


def test_a_call_is_answered_by_the_function(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, ECHO))
    answer, payload = invoke(cloud, event={"a": 1}, Qualifier="live", LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
    assert "FunctionError" not in answer
    assert (payload["event"], payload["version"]) == ({"a": 1}, "1")
    assert payload["arn"].endswith(":function:kiln:live")
    tail = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert tail[0].startswith("START RequestId: ")
    assert tail[0].endswith(" Version: 1")
    assert tail[1] == "seen {'a': 1}"
    assert "Init Duration" in tail[-1]


@pytest.mark.parametrize(
    "name",
    [
        "kiln:live",
        "arn:aws:lambda:eu-central-1:123456789012:function:kiln:live",
        "123456789012:function:kiln:live",
        "kiln:1",
    ],
)
def test_a_function_has_all_the_names_that_it_has_on_aws(
    cloud: Cloud, functions: Functions, name: str
) -> None:
    create(cloud, functions.push(cloud, ECHO))
    answer, payload = invoke(cloud, name)
    assert (answer["ExecutedVersion"], payload["version"]) == ("1", "1")


def test_a_warm_environment_is_used_again_and_one_call_has_it_at_a_time(
    cloud: Cloud, functions: Functions
) -> None:
    slow = """
    def handler(event, head):
        time.sleep(event.get("s", 0))
        return {"pid": os.getpid()}
    serve(handler)
    """
    create(cloud, functions.push(cloud, slow))
    assert len({invoke(cloud)[1]["pid"] for _ in range(3)}) == 1
    assert len(pids(cloud, {"s": 0.5}, 3)) == 3
    assert len(functions.started) == 3


def test_a_process_outlives_the_thread_that_asked_for_it(
    cloud: Cloud, functions: Functions
) -> None:
    # Linux counts the end of the thread that started a process as its parent's death.
    create(cloud, functions.push(cloud, _DIES_WITH_ITS_PARENT))
    assert len({invoke(cloud)[1]["pid"] for _ in range(5)}) == 1
    assert functions.started[0].poll() is None


def test_an_idle_environment_is_ended(tmp_path: Path, functions: Functions) -> None:
    with Cloud(tmp_path, functions.launch, keep_idle_s=0.1) as cloud:
        create(cloud, functions.push(cloud, ECHO))
        invoke(cloud)
        assert cloud.environments() == {("kiln", "$LATEST"): 1}
        assert functions.started[0].wait(30) is not None
        assert cloud.environments() == {}


def test_all_processes_end_with_the_cloud(tmp_path: Path, functions: Functions) -> None:
    with Cloud(tmp_path, functions.launch) as cloud:
        create(cloud, functions.push(cloud, ECHO))
        invoke(cloud)
    assert functions.started[0].poll() is not None


def test_an_error_of_the_function_is_its_payload(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: event['missing'])"))
    answer, payload = invoke(cloud)
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert payload["errorType"] == "KeyError"
    assert len({process.pid for process in functions.started}) == 1  # it lives on
    invoke(cloud)
    assert len(functions.started) == 1


def test_a_function_that_takes_too_long_is_ended(cloud: Cloud, functions: Functions) -> None:
    sleepy = "serve(lambda event, head: time.sleep(event['s']))"
    create(cloud, functions.push(cloud, sleepy), Timeout=1)
    answer, payload = invoke(cloud, event={"s": 600})
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == "Sandbox.Timedout"
    assert payload["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")
    assert functions.started[0].poll() is not None
    assert "FunctionError" not in invoke(cloud, event={"s": 0})[0]  # in a new process


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        ("os._exit(3)", "Runtime exited with error: exit status 3"),
        ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: 9"),
        ("os._exit(0)", "Runtime exited without a reason"),
    ],
)
def test_a_process_that_ends_during_a_call_fails_it_at_once(
    cloud: Cloud, functions: Functions, ending: str, told: str
) -> None:
    create(cloud, functions.push(cloud, f"serve(lambda event, head: {ending})"))
    answer, payload = invoke(cloud, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith(told)
    assert told in base64.b64decode(answer["LogResult"]).decode()


def test_a_function_that_cannot_start_fails_every_call(cloud: Cloud, functions: Functions) -> None:
    broken = """
    report = json.dumps({"errorType": "Runtime.ImportModuleError", "errorMessage": "no handler"})
    ask("POST", "init/error", report)
    os._exit(1)
    """
    create(cloud, functions.push(cloud, broken))
    for _ in range(2):
        answer, payload = invoke(cloud)
        assert answer["FunctionError"] == "Unhandled"
        assert payload == {"errorType": "Runtime.ImportModuleError", "errorMessage": "no handler"}


def test_a_process_that_ends_before_it_asks_for_events_fails_the_call(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, "os._exit(7)"))
    payload = invoke(cloud)[1]
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith("exit status 7")


def test_more_calls_than_the_reserved_concurrency_are_throttled(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: time.sleep(event['s']))"))
    api = client(cloud, "lambda")
    api.put_function_concurrency(FunctionName="kiln", ReservedConcurrentExecutions=1)
    invoke(cloud, event={"s": 0})
    first = threading.Thread(target=invoke, args=(cloud, "kiln", {"s": 2}))
    first.start()
    time.sleep(0.5)
    with pytest.raises(ClientError) as caught:
        invoke(cloud, event={"s": 0})
    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    first.join()
    invoke(cloud, event={"s": 0})


@pytest.mark.parametrize("name", ["other", "kiln:9", "kiln:other", "no name!"])
def test_what_does_not_exist_is_refused(cloud: Cloud, functions: Functions, name: str) -> None:
    create(cloud, functions.push(cloud, ECHO))
    with pytest.raises(ClientError) as caught:
        invoke(cloud, name)
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_an_event_that_is_no_json_is_refused(cloud: Cloud, functions: Functions) -> None:
    create(cloud, functions.push(cloud, ECHO))
    with pytest.raises(ClientError, match="InvalidRequestContentException"):
        client(cloud, "lambda").invoke(FunctionName="kiln", Payload=b"{")


def test_an_asynchronous_call_returns_at_once_and_runs(
    cloud: Cloud, functions: Functions, tmp_path: Path
) -> None:
    place = tmp_path / "seen"
    source = f"serve(lambda event, head: open({str(place)!r}, 'a').write(event['text']))"
    create(cloud, functions.push(cloud, source))
    answer, _ = invoke(cloud, event={"text": "x"}, InvocationType="Event")
    assert answer["StatusCode"] == 202
    _wait_for(place, "x")


def test_an_asynchronous_call_that_fails_is_tried_three_times(
    cloud: Cloud, functions: Functions, tmp_path: Path
) -> None:
    place = tmp_path / "seen"
    source = f"""
    def handler(event, head):
        with open({str(place)!r}, "a") as file:
            file.write("x")
        raise ValueError
    serve(handler)
    """
    create(cloud, functions.push(cloud, source))
    invoke(cloud, InvocationType="Event")
    _wait_for(place, "xxx")
    time.sleep(0.3)
    assert place.read_text() == "xxx"


def test_a_version_keeps_the_image_and_the_settings_that_it_was_published_with(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, "serve(lambda event, head: os.environ.get('WHO', 'one'))"))
    api = client(cloud, "lambda")
    api.update_function_configuration(FunctionName="kiln", Environment={"Variables": {"WHO": "me"}})
    two = publish(cloud, functions.push(cloud, "serve(lambda e, h: 'two ' + os.environ['WHO'])"))
    assert invoke(cloud, Qualifier="1")[1] == "one"
    assert invoke(cloud, Qualifier=two)[1] == "two me"
    assert invoke(cloud, Qualifier="live")[1] == "one"


def test_an_alias_sends_its_weight_of_calls_to_the_other_version(
    cloud: Cloud, functions: Functions
) -> None:
    create(cloud, functions.push(cloud, ECHO))
    two = publish(cloud, functions.push(cloud, ECHO + "# another"))
    routing = {"AdditionalVersionWeights": {two: 0.25}}
    api = client(cloud, "lambda")
    api.update_alias(FunctionName="kiln", Name="live", FunctionVersion="1", RoutingConfig=routing)
    drawn = [invoke(cloud, Qualifier="live")[0]["ExecutedVersion"] for _ in range(200)]
    assert 30 <= drawn.count(two) <= 70  # 50 are expected; beyond 4 sigma for no seed
    api.update_alias(FunctionName="kiln", Name="live", FunctionVersion=two, RoutingConfig={})
    assert {invoke(cloud, Qualifier="live")[0]["ExecutedVersion"] for _ in range(5)} == {two}


def _wait_for(place: Path, text: str) -> None:
    for _ in range(600):
        if place.exists() and place.read_text() == text:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{place} did not become {text!r}")
