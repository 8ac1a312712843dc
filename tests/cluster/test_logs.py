"""What a failure's message takes from a log: if these fail, a user gets a traceback, or another rank's echo."""

from nopsd.cluster.logs import rank_error, server_error, tail_of


def test_rank_0s_error_comes_before_the_others(tmp_path):
    """The others may only report that rank 0 failed."""
    log = tmp_path / "train.log"
    log.write_text("nopsd: error: of an earlier start\n")
    start = log.stat().st_size
    assert rank_error(log, start) is None
    with log.open("a") as file:
        file.write("x nopsd: error: [rank 1] rank 0 failed\n\nnopsd: error: data.jsonl:7 is not JSON\n")
    assert rank_error(log, start) == "data.jsonl:7 is not JSON"
    assert "earlier" not in tail_of(log, start) and len(tail_of(log, start).splitlines()) == 2


def test_the_first_exception_of_vllm_and_pydantics_cause_are_named(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(
        "(EngineCore pid=1) ERROR 01-01 [core.py:1] ValueError: no such dtype\n"
        "(APIServer pid=2) ERROR 01-01 [x.py:1] RuntimeError: engine failed\n" + "INFO\n" * 20
    )
    assert server_error(log).startswith(f"first error: ValueError: no such dtype; its log is {log} and ends\n")
    log.write_text(
        "(A pid=1) ERROR [x.py:1] pydantic.ValidationError: 1 validation error for C\n(A pid=1)   unknown model\n"
    )
    assert "1 validation error for C unknown model" in server_error(log)


def test_the_tail_leaves_out_what_says_nothing_of_the_failure(tmp_path):
    """Breaks if a user sees twelve lines of warnings in place of the error."""
    log = tmp_path / "train.log"
    noise = [
        "/site-packages/torch/distributed/c10d_logger.py:83: FutureWarning: `all_gather` is deprecated. Use another",
        "  return func(*args, **kwargs)",
        "[2026-11-26 14:42:56,593] [INFO] [launch.py:285:main] Process 15552 exits successfully.",
    ]
    log.write_text("\n".join(["RuntimeError: the cause", "[rank 1] UserWarningless text", *noise * 10]))
    assert tail_of(log) == "    RuntimeError: the cause\n    [rank 1] UserWarningless text"
