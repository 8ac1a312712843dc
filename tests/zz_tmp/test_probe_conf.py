import pytest
def test_ok(deepspeed_run):
    r = deepspeed_run("/tmp/ds_probe_setup.py", "a b", 3, ranks=2, timeout=60); assert r.output.count("'a b', '3'")==2, r.output; assert "WORLD" or r
def test_fail(deepspeed_run):
    r = deepspeed_run("/tmp/ds_probe_setup.py", "fail", timeout=60, check=False); assert r.returncode != 0
def test_hang(deepspeed_run):
    with pytest.raises(pytest.fail.Exception, match="not done in 25"):
        deepspeed_run("/tmp/ds_probe_setup.py", "hang", timeout=25)
