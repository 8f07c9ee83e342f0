"""The job of `rounds.py` on Flower's simulation engine; prints one JSON line at the end.

FedAvg over four virtual nodes, no evaluation, each client on one core, so that two run at once on
two cores. Models and rows stay in memory between messages where Ray's actors allow it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import _heart
import flwr
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client = ClientApp()
server = ServerApp()
MARKS: list[float] = []


class Marked(FedAvg):
    """FedAvg that notes when each round is over; the first mark is the start."""

    def aggregate_train(self, server_round, replies):  # noqa: D102
        result = super().aggregate_train(server_round, list(replies))
        MARKS.append(time.perf_counter())
        return result


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one silo's model for one round."""
    net = _heart.Logistic()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    rows = _heart.train(net, _heart.SILOS[int(context.node_config["partition-id"])])
    content = {
        "arrays": ArrayRecord(net.state_dict()),
        "metrics": MetricRecord({"num-examples": rows}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@server.main()
def coordinate(grid: Grid, context: Context) -> None:
    """Run all rounds."""
    nodes = len(_heart.SILOS)
    strategy = Marked(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
    )
    arrays = ArrayRecord(_heart.Logistic().state_dict())
    MARKS.append(time.perf_counter())
    strategy.start(grid, arrays, num_rounds=_heart.JOB["rounds"])
    if "BENCH_MARKS" in os.environ:  # this process is none of the benchmark's: `flower_apart.py`
        whole = Path(os.environ["BENCH_MARKS"]).with_suffix(".part")
        whole.write_text(json.dumps(MARKS))
        whole.rename(os.environ["BENCH_MARKS"])


if __name__ == "__main__":
    run_simulation(
        server,
        client,
        num_supernodes=len(_heart.SILOS),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    begun, *marks = MARKS
    answer = {
        "rounds": marks[-1] - begun,  # what Flower itself logs: "Strategy execution finished in"
        "alone": _heart.rounds_alone(marks),
        "version": flwr.__version__,
    }
    print(json.dumps(answer), flush=True)
