"""What two tools do by their documentation, as schedules; in their favour where it is unclear.

Both see fresh and exact numbers, start with a candidate that is ready, and shift traffic
at once: no scrape interval, no detection, no rolling update is counted against them.
"""

from benchmarks.canary.outcome import Outcome
from benchmarks.canary.traffic import Answers, Traffic

INTERVAL_S = 60


def flagger(traffic: Traffic) -> Outcome:
    """Flagger's example: every minute success rate >= 99 % and p99 <= 500 ms, stepWeight 10,
    maxWeight 50, threshold 5.

    A minute's checks that all pass raise the weight, or promote at maxWeight; any that does
    not halts the canary and counts; the fifth rolls back. A minute without a request is
    such a check, too ("Halt advancement no values found"). Documented times: promotion after
    interval x maxWeight / stepWeight, rollback after interval x threshold.
    https://docs.flagger.app/usage/deployment-strategies,
    https://docs.flagger.app/usage/metrics
    """
    outcome, weight, failed = Outcome(), 10, 0
    while True:
        if _flagger_checks(outcome.watch(traffic, INTERVAL_S, weight)):
            if weight >= 50:
                return outcome.end("promoted", traffic)
            weight += 10
            outcome.rise(traffic)
        elif (failed := failed + 1) >= 5:
            return outcome.end("rolled_back", traffic)


def _flagger_checks(seen: Answers) -> bool:
    if not len(seen.failed):
        return False
    # The p99 of a histogram with an edge at 500 ms, as Istio's has, is above it if and only if
    # more than 1 % of the requests are.
    return bool(seen.failed.mean() <= 0.01 and (seen.latency > 500).mean() <= 0.01)


def argo_rollouts(traffic: Traffic) -> Outcome:
    """A canary of Argo Rollouts: setWeight 20, 40, 60, 80, five minutes each, in which an
    analysis measures the success rate of the last minute: interval 60 s, count 5,
    successCondition >= 95 %, failureLimit 3.

    The third failed measurement of a step aborts ("three such measurements" in the guide;
    the controller's code wants a fourth). Without requests the rate is NaN, which meets no
    successCondition: a failed measurement.
    https://argo-rollouts.readthedocs.io/en/stable/features/analysis/
    """
    outcome = Outcome()
    for weight in (20, 40, 60, 80):
        if weight > 20:
            outcome.rise(traffic)
        failed = 0
        for _ in range(5):
            seen = outcome.watch(traffic, INTERVAL_S, weight)
            failed += not (len(seen.failed) and seen.failed.mean() <= 0.05)
            if failed >= 3:
                return outcome.end("rolled_back", traffic)
    return outcome.end("promoted", traffic)
