"""What launches ranks, without the ranks: python worker_head.py FOLDER HEARTBEAT_S HOST…

Writes FOLDER/launch.json, waits for ranks that others start, and ends with a JSON line: who failed, how, and why.
"""

import json
import sys
import time
from pathlib import Path

from nopsd.cluster.deepspeed_command import Plan
from nopsd.cluster.hostfile import Host
from nopsd.cluster.launch_context import LaunchContext
from nopsd.cluster.root_cause import describe


def main() -> None:
    folder, heartbeat_s, *names = sys.argv[1:]
    hosts = tuple(Host(name, 1) for name in names)
    several = names[0] != "localhost"
    plan = Plan(hosts, hostfile="hosts" if several else None, master_addr=names[0])
    if not several:
        plan = Plan((Host("localhost", len(names)),))
    with LaunchContext(plan, Path(folder), {"NOPSD_MARK": "passed on"}, float(heartbeat_s)) as launching:
        print(json.dumps({"up": True}), flush=True)
        while not launching.failure() and launching.unfinished:
            time.sleep(0.05)
        failure = launching.failure()
        result = (
            {"kind": failure.kind, "rank": failure.rank, "message": describe(failure, launching.heartbeat_s)}
            if failure
            else {}
        )
        print(json.dumps({**result, "at": time.time()}), flush=True)
        while failure and not launching.lost():
            time.sleep(0.05)


main()
