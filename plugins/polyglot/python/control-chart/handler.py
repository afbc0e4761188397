"""The control chart of `plugins/control-chart`, in Python: the same configuration, the same alarms, and the same state, so that either
of the two can go on with what the other one has kept.

`componentize-py` looks for the resource `partition-handler` of the interface `handler` here: the module is named after the interface,
and the class after the resource.
"""

import json
from math import isfinite, sqrt

from componentize_py_types import Err, Some
from wit_world.imports import config, publish
from wit_world.imports.types import Completed_Ack, Completed_Reject, Outcome, Snapshot

FORMAT = "control-chart/1"


class PartitionHandler:
    def __init__(self, partition, snapshot):
        self.partition = partition.id
        self.field = config.get("field") or "value"
        self.width = float(config.get("sigma") or 3)
        self.weight = float(config.get("lambda") or 0.2)
        self.warmup = int(config.get("warmup") or 30)
        self.chart = {"count": 0, "mean": 0.0, "m2": 0.0, "ewma": 0.0, "last_sequence": 0}
        if snapshot is not None:
            self.chart = json.loads(snapshot.data)

    @classmethod
    def open(cls, partition, why, snapshot):
        if snapshot is not None and snapshot.format != FORMAT:
            raise Err(f"the snapshot is in the format `{snapshot.format}`, and this version reads `{FORMAT}`")
        return cls(partition, snapshot)

    def handle(self, batch):
        done = []
        for message in batch:
            try:
                done.append(self.take(message))
            except Err:
                # The host does not publish. It may be the batch's limit, and a message that is tried again begins the next batch.
                return Outcome(done, Some(None))
        return Outcome(done, None)

    def take(self, message):
        try:
            reading = json.loads(message.payload)[self.field]
        except (ValueError, LookupError, TypeError):
            reading = None
        # A bool is an int in Python.
        if isinstance(reading, bool) or not isinstance(reading, (int, float)):
            return Completed_Reject(f"the payload has no numeric field `{self.field}`")
        try:
            reading = float(reading)
        except OverflowError:
            return Completed_Reject("the reading is too large for the chart")
        chart = self.add(message.sequence, reading)
        if chart is None:
            return Completed_Reject(f"the reading {reading} is not finite, or too large for the chart")
        alarm = self.judge(message.sequence, reading)
        if alarm is not None:
            payload = json.dumps({"partition": self.partition, **alarm}).encode()
            publish.send(message.sequence, f"alarms.{self.partition}", [], payload)
        self.chart = chart
        return Completed_Ack()

    def judge(self, sequence, value):
        """The alarm that a reading is reported with, by the readings before it."""
        count, mean = self.chart["count"], self.chart["mean"]
        sigma = sqrt(self.chart["m2"] / (count - 1)) if count > 1 else 0.0
        lower, upper = mean - self.width * sigma, mean + self.width * sigma
        if count < self.warmup or lower <= value <= upper:
            return None
        return {
            "sequence": sequence,
            "value": value,
            "mean": mean,
            "sigma": sigma,
            "ewma": self.chart["ewma"],
            "lower": lower,
            "upper": upper,
            "count": count,
        }

    def add(self, sequence, value):
        """The chart with this reading; none if it could not hold it."""
        count = self.chart["count"] + 1
        delta = value - self.chart["mean"]
        mean = self.chart["mean"] + delta / count
        m2 = self.chart["m2"] + delta * (value - mean)
        ewma = value if count == 1 else self.chart["ewma"] + self.weight * (value - self.chart["ewma"])
        if not all(map(isfinite, (mean, m2, ewma))):
            return None
        return {"count": count, "mean": mean, "m2": m2, "ewma": ewma, "last_sequence": sequence}

    def snapshot(self):
        return Snapshot(FORMAT, json.dumps(self.chart, separators=(",", ":")).encode())

    def close(self, why):
        pass
