"""serve/server/server.py: the real program, its processes, and what it does when it is told to
end."""

import http.client
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from uvicorn import Config

from common.programs import free_port
from serve.image import healthcheck
from serve.server.server import main
from serve.server.workers import Supervisor, Worker
from tests.helpers.waiting import PATIENCE_S, wait_until
from tests.serve.server_process import Server, program, running
from tests.serve.serving import MODEL, base64_of, image_file, pixels

BODY = json.dumps({"image": base64_of(image_file(pixels()))})
HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(KILN_BODY_TIMEOUT_MS="300") as up:
        yield up


def test_many_callers_at_once_all_get_the_right_answer(server: Server) -> None:
    bodies = [
        json.dumps({"image": base64_of(image_file(pixels(seed))), "top_k": 1}) for seed in range(8)
    ]
    alone = [server.ask("POST", "/predict", body)[1]["top_k"] for body in bodies]
    with ThreadPoolExecutor(16) as callers:
        answers = list(
            callers.map(lambda n: server.ask("POST", "/predict", bodies[n % 8]), range(200))
        )
    assert {status for status, _ in answers} == {200}
    for n, (_, answer) in enumerate(answers):
        found, expected = answer["top_k"][0], alone[n % 8][0]
        assert found["label"] == expected["label"]
        assert found["probability"] == pytest.approx(expected["probability"], abs=2e-6)
    assert len({answer["request_id"] for _, answer in answers}) == 200


def test_an_upload_that_stops_is_answered_and_one_that_ends_is_forgotten(server: Server) -> None:
    head = f"{HEAD}Content-Length: 99\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as slow:
        slow.sendall(head + b"\x89PNG")
        assert slow.recv(64).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as gone:
        gone.sendall(head + b"\x89PNG")
    assert server.ask("POST", "/predict", BODY)[0] == 200


def test_what_is_no_http_does_not_disturb_others(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as odd:
        odd.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert odd.recv(64).startswith(b"HTTP/1.1 400")
    assert server.ask("GET", "/health")[0] == 200


def test_more_callers_than_the_service_can_serve_in_time_are_turned_away() -> None:
    images = json.dumps({"images": [base64_of(image_file(pixels()))] * 100})
    with running(KILN_DEADLINE_MS="1", KILN_MAX_QUEUE="100") as server:
        with ThreadPoolExecutor(16) as callers:
            asked = callers.map(lambda _: server.ask("POST", "/predict/batch", images), range(48))
            answers = [(status, answer.get("type")) for status, answer in asked]
        assert server.ask("POST", "/predict", BODY)[0] == 200
    assert {status for status, _ in answers} <= {200, 503}
    assert (503, "urn:kiln:problem:overloaded") in answers


def test_a_process_that_dies_is_replaced_and_the_others_go_on() -> None:
    with running(workers=2) as server:
        wait_until(lambda: len(server.workers()) == 2)
        first, second = server.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - {first}) == 2)
        wait_until(server.is_up)
        assert second in server.workers()


def test_processes_are_looked_after_while_they_are_replaced_one_by_one() -> None:
    with running(workers=2) as server:
        wait_until(lambda: len(server.workers()) == 2)
        before = first, _ = server.workers()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 3)
        (successor,) = set(server.workers()) - {*before}
        os.kill(successor, signal.SIGSTOP)  # it takes long to start
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(set(server.workers()) - {*before, successor}) == 1)
        os.kill(successor, signal.SIGCONT)
        wait_until(lambda: len(server.workers()) == 2 and not {*before} & {*server.workers()})
        assert server.is_up()


def test_processes_stay_where_their_successors_cannot_serve(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.read_bytes())
    with running(workers=2, KILN_MODEL=str(model)) as server:
        wait_until(lambda: counts(server) == [0, 0])  # both have read the model
        before = server.workers()
        model.write_bytes(b"no model any more")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 3)
        wait_until(lambda: len(server.workers()) == 2)
        assert server.workers() == before
        assert server.is_up()
        server.process.terminate()
        _, said = server.process.communicate(timeout=PATIENCE_S)
    assert "a successor did not serve" in said
    assert server.process.returncode == 0


def test_processes_have_equal_shares_of_the_callers_who_stay() -> None:
    with running(workers=2, KILN_HEAD_TIMEOUT_MS="600000") as server, ExitStack() as callers:
        wait_until(lambda: counts(server) == [0, 0])
        for number in range(1, 41):
            call_and_wait(server, callers, number)
        assert min(connections(server).values()) >= 15  # 20 where no process is late for its turn
        assert sum(counts(server)) == 40
        callers.close()
        wait_until(lambda: counts(server) == [0, 0])


def test_the_share_of_a_process_that_died_goes_to_its_successor() -> None:
    with running(workers=2, KILN_HEAD_TIMEOUT_MS="600000") as server, ExitStack() as callers:
        wait_until(lambda: counts(server) == [0, 0])
        for number in range(1, 9):
            call_and_wait(server, callers, number)
        first, second = server.workers()
        kept = connections(server)[second]
        os.kill(first, signal.SIGKILL)
        assert server.ask("GET", "/health")[0] == 200  # not left to the dead, who has fewer
        wait_until(lambda: 0 in counts(server))  # its successor has its place
        for number in range(1, 21):
            call_and_wait(server, callers, kept + number)
        assert (
            connections(server)[second] < kept + 10
        )  # at most 4 + 8 where no process is late for its turn


def test_a_process_that_dies_while_its_answer_is_awaited_is_noticed() -> None:
    worker = Worker(Config("no:app"), [])
    worker.process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(3600,))
    worker.start()
    try:
        threading.Timer(0.1, worker.process.kill).start()
        assert worker.ping(timeout=3600) is False  # or this test waits for an hour
    finally:
        worker.kill()
        worker.join()


def test_a_process_that_dies_while_starting_is_noticed_and_three_in_a_row_end_the_service(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.read_bytes())
    with running(workers=2, KILN_MODEL=str(model)) as server:
        wait_until(lambda: len(server.workers()) == 2)
        model.write_bytes(b"no model any more")
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
        told = []
        while server.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                told.append(server.ask("GET", "/health"))
            time.sleep(0.05)
        _, said = server.process.communicate(timeout=PATIENCE_S)
    assert server.process.returncode == 2
    assert said.splitlines()[-1].startswith("kiln: error: 3 processes in a row ended before they")
    assert "not an ONNX model" in said.splitlines()[-1]
    answers = [answer for status, answer in told if status == 503]
    assert answers, "those who call meanwhile are told"
    assert {answer["type"] for answer in answers} == {"urn:kiln:problem:not-ready"}


def test_a_process_that_cannot_start_is_noticed_while_others_are_slow() -> None:
    """The two processes of a service: one is stopped before it serves, one dies."""
    config = Config("no:app", workers=2, log_config=None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        supervisor = Supervisor(config, listener, "0" * 64)
        stopped, dead = (Worker(config, [listener]) for _ in range(2))
        context = multiprocessing.get_context("spawn")
        stopped.process = context.Process(target=time.sleep, args=(3600,))
        dead.process = context.Process(target=sys.exit, args=(7,))
        supervisor.processes = [stopped, dead]
        try:
            for worker in supervisor.processes:
                worker.start()
            dead.process.join()
            supervisor.keep_subprocess_alive()
            assert supervisor.processes[0] is stopped
            assert supervisor.processes[1] is not dead
            assert dead.end == "exit code 7"
        finally:
            for worker in supervisor.processes:
                worker.kill()
                worker.join()


def test_descriptors_that_run_out_are_taken_from_idle_connections() -> None:
    with running(KILN_HEAD_TIMEOUT_MS="600000") as server, ExitStack() as callers:
        limit = len(os.listdir(f"/proc/{server.process.pid}/fd")) + 24
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for number in range(200):
            caller = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
            callers.enter_context(caller)
            caller.sendall(
                (b"", HEAD.encode(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")[number % 3]
            )
        assert all(server.ask("POST", "/predict", BODY)[0] == 200 for _ in range(10))
        server.process.terminate()
        _, said = server.process.communicate(timeout=PATIENCE_S)
    assert "cannot accept connections" not in said


def test_a_caller_who_ends_only_its_own_half_is_answered(server: Server) -> None:
    head = HEAD.replace("image/png", "application/json") + f"Content-Length: {len(BODY)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as caller:
        caller.sendall(head.encode() + BODY.encode())
        caller.shutdown(socket.SHUT_WR)
        said = b""
        while part := caller.recv(4096):
            said += part
    assert said.startswith(b"HTTP/1.1 200 ")  # and then the connection was closed
    assert json.loads(said.partition(b"\r\n\r\n")[2])["label"]


def test_help_tells_the_options_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--model", "--host", "--port", "--workers", "KILN_"))


@pytest.mark.parametrize("words", [["serve"], ["--ports", "1"], ["--por", "1"], ["--port"]])
def test_words_that_are_no_option_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--port", "many"],
        ["--precision", "fp64"],
        ["--workers=0"],
        ["--model", "/no/model.onnx"],
        ["--host", "192.0.2.1"],
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KILN_PORT", "KILN_WORKERS", "KILN_HOST", "KILN_PRECISION"):
        monkeypatch.setenv(name, "")  # as if it were not there; what main() sets does not stay
    monkeypatch.setenv("KILN_MODEL", str(MODEL))
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("kiln: error: ")
    assert words[0].partition("=")[0] in line or "/no/model.onnx" in line


def test_options_take_the_place_of_variables() -> None:
    port = free_port()
    process = program(
        *("--port", str(port), "--model", str(MODEL), "--workers", "1"),
        KILN_PORT="1",
        KILN_WORKERS="7",
        KILN_MODEL="/no/model.onnx",
    )
    server = Server(port, process)
    try:
        wait_until(server.is_up)
        assert server.workers() == []  # a lone process serves by itself
        assert healthcheck.main(Path(f"/proc/{process.pid}/cmdline")) == 0
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_every_process_serves_the_precision_that_was_chosen() -> None:
    """Of a folder with both; which is the faster is this machine's to say."""
    with running(workers=2, KILN_MODEL=str(MODEL.parent)) as server:
        found = {server.ask("GET", "/model/info")[1]["quantisation"] for _ in range(20)}
        server.process.terminate()
        lines = [json.loads(line) for line in server.process.communicate()[1].splitlines()]
    [served] = [line["precision"] for line in lines if line["message"].startswith("serving")]
    [chosen] = [line["chosen"] for line in lines if line["message"].startswith("chose the fastest")]
    assert found == {{"fp32": "none"}.get(served, served)}
    assert chosen == {"fp32": "model.onnx", "int8": "model.int8.onnx"}[served]


@pytest.mark.parametrize(
    ("words", "variable", "port"),
    [
        (["python3", "boot.py", "--port", "9000"], "1", 9000),
        (["python3", "boot.py", "--host", "::", "--port=9000"], "1", 9000),
        (["tini", "--", "python3", "boot.py", "--port", "9000", "--port", "9001"], "", 9001),
        (["python3", "boot.py"], "9000", 9000),
        (["python3", "boot.py"], "", 8000),
        (["python3", "boot.py", "--reports", "1"], "", 8000),
    ],
)
def test_the_health_check_asks_at_the_port_that_the_server_was_started_with(
    words: list[str],
    variable: str,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def urlopen(url: str, **_: float) -> AbstractContextManager[None]:
        asked.append(url)
        return nullcontext()

    monkeypatch.setenv("KILN_PORT", variable)
    monkeypatch.setattr(healthcheck, "urlopen", urlopen)
    process = tmp_path / "cmdline"
    process.write_text("\0".join([*words, ""]))
    assert healthcheck.main(process) == 0
    assert asked == [f"http://127.0.0.1:{port}/ready"]


def test_processes_end_with_a_parent_that_is_killed() -> None:
    with running(workers=2) as server:
        wait_until(lambda: counts(server) == [0, 0])
        server.process.kill()
        wait_until(lambda: refuses_connections(server.port))


def call_and_wait(server: Server, callers: ExitStack, number: int) -> None:
    """One more caller, who stays, until a process has this connection."""
    callers.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S))
    wait_until(lambda: sum(connections(server).values()) == number)


def counts(server: Server) -> list[int]:
    """What the processes say of their connections; empty before they have said it all."""
    with suppress(FileNotFoundError):
        for pid in server.workers():
            variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            known = dict(one.split("=", 1) for one in variables if one)
            if path := known.get("KILN_CONNECTION_COUNTS"):
                return [int(count) for count in np.fromfile(path, np.int32) if count >= 0]
    return []


def connections(server: Server) -> dict[int, int]:
    """What the system says of them, by process."""
    found = {}
    for pid in server.workers():
        files = Path(f"/proc/{pid}/fd").iterdir()
        links = {os.readlink(file) for file in files if file.is_symlink()}
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        found[pid] = sum(
            row[1].endswith(f":{server.port:04X}")
            and row[3] == "01"  # established
            and f"socket:[{row[9]}]" in links
            for row in rows
        )
    return found


def test_sigterm_lets_requests_that_have_arrived_be_answered() -> None:
    head = f"{HEAD}Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
    with (
        running() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as caller,
    ):
        caller.sendall(head.replace("image/png", "application/json").encode())
        assert caller.recv(64).startswith(b"HTTP/1.1 100")  # the request is being read
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(server.port))
        caller.sendall(BODY.encode())
        assert caller.recv(64).startswith(b"HTTP/1.1 200")
        assert server.process.wait(PATIENCE_S) == 0


def refuses_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"KILN_MODEL": "/no/such/model.onnx"}, "cannot read the model /no/such/model.onnx"),
        ({"KILN_MODEL": __file__}, "not an ONNX model"),
        ({"KILN_PORT": "many"}, "KILN_PORT is 'many', expected a whole number from 0 to 65535"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(variables: dict[str, str], said: str) -> None:
    with program(**variables) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert said in errors
    assert errors.startswith("kiln: error: ")
    assert len(errors.splitlines()) == 1


def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = program(KILN_PORT=str(port))
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    (line,) = said.splitlines()
    assert f" {port} of 127.0.0.1 " in line
    assert "KILN_PORT=" in line


def test_an_address_of_another_machine_is_a_mistake() -> None:
    process = program(KILN_HOST="192.0.2.1")
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "KILN_HOST" in said
    assert len(said.splitlines()) == 1
