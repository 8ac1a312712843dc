"""Our sink against the real MLflow, under an interpreter that has it; run by test_mlflow_sink.py.

python mlflow_reader.py FOLDER: a training that is resumed, as the sink writes it; prints what MLflow's client reads.
"""

import json
import sys
from pathlib import Path

from mlflow.tracking import MlflowClient

from nopsd.config import load_config
from nopsd.train.tracking.base import open_sinks


def main(folder: Path) -> None:
    more = ["tracking.to=[mlflow]", "tracking.project=p", "tracking.name=n", "server.api_key=sk-secret"]
    config = load_config("lab", [f"run_dir={folder}", *more])
    for first in (0, 2):  # the second is the resumed one
        (sink,) = open_sinks(config, folder, first)
        for step in (first, first + 1):
            sink.scalars(step, {"loss/loss": 1.0 / (step + 1), "eval/bio/avg": 0.5})
        sink.close()
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("p")
    runs = client.search_runs([experiment.experiment_id])
    found = {
        "runs": len(runs),
        "name": runs[0].info.run_name,
        "status": runs[0].info.status,
        "steps": runs[0].data.params["train.steps"],
        "loss": [[m.step, m.value] for m in client.get_metric_history(runs[0].info.run_id, "loss/loss")],
        "params": json.dumps(runs[0].data.params),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
