"""Worker processes whose death the supervisor notices at once."""

from multiprocessing.connection import Connection, wait

from uvicorn.supervisors.multiprocess import Process


class Worker(Process):
    """uvicorn's worker process.

    uvicorn asks it for a sign of life and waits for the answer as long as a busy machine may need
    to start a process. It holds both ends of the pipe, so that a process that dies meanwhile looks
    like one that is slow. Here its end is waited for as well.
    """

    def _healthcheck(self, timeout: float) -> bool | None:
        """Whether it has started; None if it does not answer within `timeout` seconds, or ends."""
        try:
            self.parent_conn.send(b"ping")
            awaited: list[Connection | int] = [self.parent_conn, self.process.sentinel]
            if self.parent_conn not in wait(awaited, timeout):
                return None
            started: bool = self.parent_conn.recv()
            return started
        except (OSError, EOFError):
            return None
