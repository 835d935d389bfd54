"""Records of a race, as reports and bars ask about them."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses

from bench import ceilings, stats
from bench.contestants import OURS
from bench.workloads import Case


@dataclasses.dataclass(frozen=True)
class Row:
    """One case on one number of threads."""

    record: dict
    ceilings: ceilings.Ceilings

    @property
    def case(self):
        """The case."""
        return Case(**self.record["case"])

    @property
    def threads(self):
        """Number of threads."""
        return self.record["threads"]

    @property
    def ours(self):
        """What rnncore's entry gave, or None."""
        return self.record["results"].get(OURS)

    def best(self, contestant):
        """(variant, result) of a contestant's fastest variant, or None."""
        found = [
            (name, result)
            for name, result in self.record["results"].items()
            if result["contestant"] == contestant
        ]
        return min(found, key=lambda pair: pair[1]["seconds"], default=None)

    def best_peer(self, among=None):
        """(variant, result) of the fastest who is not us, or None."""
        found = [
            (name, result)
            for name, result in self.record["results"].items()
            if result["contestant"] != OURS and (among is None or result["contestant"] in among)
        ]
        return min(found, key=lambda pair: pair[1]["seconds"], default=None)

    def ratio(self, among=None):
        """How many times faster we are than the best of the peers; None if one side is missing."""
        peer = self.best_peer(among)
        if peer is None or self.ours is None:
            return None
        return stats.paired_ratio(self.ours["turns"], peer[1]["turns"])

    @property
    def cost(self):
        """What a call has to do at least."""
        return ceilings.cost(self.case, self.record["valid_steps"])

    @property
    def floors(self):
        """Least seconds of a call on this machine."""
        return ceilings.floors(self.case, self.record["valid_steps"], self.ceilings, self.threads)

    def floor_share(self, seconds):
        """The larger floor over `seconds`: at 1 there is nothing left to gain."""
        return self.floors.together / seconds

    def peak_share(self, seconds):
        """Arithmetic done in `seconds`, as a share of the machine's peak."""
        peak = self.ceilings.peak(self.case.precision, self.threads)
        return self.cost.operations / seconds / peak

    @property
    def paired_peak_share(self):
        """Our arithmetic as a share of the peak beside it: median over the turns.

        A machine that gives less for a while gives less to both. Where nobody looked at the peak it
        is that of the whole run.
        """
        if "peaks" not in self.ours:
            return self.peak_share(self.ours["seconds"])
        pairs = zip(self.ours["turns"], self.ours["peaks"], strict=True)
        return stats.median(self.cost.operations / seconds / peak for seconds, peak in pairs)

    def weight_speed(self, seconds):
        """Bytes of weights read a second, and their share of the bandwidth of where they lie."""
        cost = self.cost
        speed = cost.weights * cost.passes / seconds
        return speed, speed / self.ceilings.bandwidth(cost.weights, self.threads)


def rows(measured):
    """The rows of a whole race."""
    found = ceilings.Ceilings.of_rows(measured["ceilings"])
    return [Row(record, found) for record in measured["records"]]
