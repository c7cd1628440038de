"""Source on a laptop: what the local Envoy and the prediction logs counted."""

import time

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.prediction_log import PredictionLog
from modelyard.delivery.local.predictions import Answers, Side
from modelyard.delivery.local.reference import read_reference
from modelyard.delivery.policy import Gates
from modelyard.delivery.ports import Routes


class EnvoySource:
    """Running totals since Envoy started; of scores and pairs since the shadow began."""

    def __init__(self, envoy: Envoy, folders: Folders, gates: Gates) -> None:
        self._envoy, self._folders, self._gates = envoy, folders, gates
        self._answers: Answers | None = None
        self._of: tuple[int, int, float] | None = None

    def counts(self, routes: Routes, since: float) -> Counts:
        """As of the port.

        Raises:
            ConnectionError: Envoy does not answer, or not with numbers.
            UserError: the stable version's package has no reference scores.
        """
        read = time.time()
        arms = self._envoy.arms()
        answers = self._logged(routes, since)
        return Counts(
            time=read,
            epoch=self._envoy.epoch,
            stable=self._arm(arms, routes.stable, answers, 0),
            candidate=self._arm(arms, routes.candidate, answers, 1),
            pairs=answers.pairs() if answers and routes.mirror else None,
            replayed=arms.get(f"replay-v{routes.stable}", Arm()).model_copy(update={"latency": {}}),
        )

    def _logged(self, routes: Routes, since: float) -> Answers | None:
        if routes.stable is None or routes.candidate is None:
            return None
        paired = self._gates.predictions if routes.mirror else None
        if paired is None and self._gates.scores is None:
            return None
        of = (routes.stable, routes.candidate, since)
        if self._answers is None or self._of != of:
            logs = [PredictionLog(self._folders.predictions(v), since) for v in of[:2]]
            reference = read_reference(self._folders.package(routes.stable))
            self._answers, self._of = Answers((logs[0], logs[1]), reference, paired), of
        if not routes.mirror:
            self._answers.stop_pairing()
        self._answers.read()
        return self._answers

    def _arm(
        self, arms: dict[str, Arm], version: int | None, answers: Answers | None, side: Side
    ) -> Arm | None:
        """Users, their copies and the shadow's own requests. The last are sent only in shadow
        and awaited before it ends, so what is added in canary is users' alone."""
        found = [arms[name] for name in (f"v{version}", f"replay-v{version}") if name in arms]
        if version is None or not found:
            return None
        latency: dict[float, int] = {}
        for arm in found:
            for edge, count in arm.latency.items():
                latency[edge] = latency.get(edge, 0) + count
        return Arm(
            requests=sum(arm.requests for arm in found),
            failures=sum(arm.failures for arm in found),
            pending=sum(arm.pending for arm in found),
            latency=latency,
            scores=answers.scores(side) if answers and self._gates.scores else {},
        )
