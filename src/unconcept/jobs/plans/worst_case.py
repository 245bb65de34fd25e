"""The plan of `worst-case`: one erasure of all candidates is rehearsed, and one picture of each kind is measured."""

from ...evaluation.attacks.denoising_errors import denoising_errors
from ...evaluation.trials.forget_sets import ForgetSetPlan
from ..command_options import WorstCaseOptions
from ..evaluate_job import OpenRun
from ..searches.worst_case import open_search, plan_worst_case
from .evaluate import plan_opened
from .plan import Plan, PlannedStep
from .rehearsals import rehearse_task
from .timing import DrawTime, grey_picture, judge_seconds, timed_once


def plan_set_search(options: WorstCaseOptions) -> Plan:
    """Plan a search and its sets. Raises the errors that it raises for bad input."""
    opening, (opened, plan) = timed_once(lambda: open_search(plan_worst_case(options)))
    return plan_opened(opened, opening, lambda run, draws: _search_step(run, plan, draws))


def _search_step(opened: OpenRun, plan: ForgetSetPlan, draws: DrawTime) -> PlannedStep:
    """Both searches: their first step is the same."""
    task, model = plan.erasure("search", range(len(plan.candidates))), opened.unedited.base()
    made = rehearse_task(task, draws.of_one_step)
    checks = [check for name in plan.candidates for check in plan.searched_checks(name)]
    drawing = draws.seconds(len(checks), opened.spec.steps)
    erasures = 2 * plan.settings.outer - 1
    if plan.loss == "judged":
        assert opened.judge is not None
        cost = drawing + len(checks) * judge_seconds(opened.judge, checks[0], grey_picture(model))
        once = 0.0
    else:
        one, _ = timed_once(lambda: denoising_errors(model, [checks[0].prompt.text], grey_picture(model)[None]))
        cost, once = len(checks) * one, drawing
    told = (
        f"search: {erasures} erasures of {len(plan.candidates)} candidates, {len(checks)} pictures measured after each"
    )
    return PlannedStep(told, once + erasures * (made.seconds + cost), "one erasure and one picture were timed")
