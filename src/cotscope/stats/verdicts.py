"""The rule by which a phenomenon of the chain-of-thought prompt is judged, written down when a study begins."""

from __future__ import annotations

from . import LEVEL

LARGEST_BLIND_CHANGE = 0.15  # of accuracy: who could only have seen a larger one can't say that there was none

RULE = (
    "Accuracy has changed if its exact McNemar p, Holm-adjusted over the phenomena, is below 0.05; activity has changed "
    "if the sign-flip permutation p of its paired change, Holm-adjusted likewise, is below 0.05. Both, in the same "
    "direction: explained. Both, in opposite directions: contradicted. Accuracy alone: accuracy moves without activity, "
    "unless activity was measured on so few problems that its p could not have come below 0.05: too few problems to "
    "tell. Activity alone: activity moves without accuracy; neither: no change; but both unless these problems could "
    "show (with 80 % power, the level shared by the phenomena) only a change in accuracy above 0.15: too few problems "
    "to tell. A phenomenon that several prompts show is judged on each problem's mean over them, accuracy then by a "
    "sign-flip permutation test. The verdict is on generated activity; beside it stands the same on teacher-forced activity."
)


def verdict(accuracy: tuple[float, float], activity: tuple[float, float], detectable: float, problems: int, tests: int) -> str:
    """`RULE` on one phenomenon.

    Args:
        accuracy, activity: each the mean change and its adjusted p.
        detectable: the smallest change of accuracy that the problems can show.
        problems: on which activity was measured.
        tests: how many phenomena share the level.
    """
    moves = [p < LEVEL for _, p in (accuracy, activity)]
    if all(moves):
        return "explained" if (accuracy[0] > 0) == (activity[0] > 0) else "contradicted"
    too_few = "too few problems to tell"
    if moves[0]:
        smallest = tests * 2.0 ** (1 - problems)  # of all sign flips two are as extreme as can be
        return "accuracy moves without activity" if smallest < LEVEL else too_few
    if detectable > LARGEST_BLIND_CHANGE:
        return too_few
    return "activity moves without accuracy" if moves[1] else "no change"
