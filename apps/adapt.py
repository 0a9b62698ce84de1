"""The tab *Adapt*: from labelled pictures to an adapter, in the background, with cost before and curve meanwhile."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from apps.desk import LIGHT_QUEUE, MODEL_QUEUE, Choice, Desk, bring_into_view, phrases_in
from apps.lent_gpu import IS_LENT, RUN, on_gpu
from apps.refusals import spoken
from apps.state import Workspace
from workbench.adapters import PLANS, Plan, PlanName
from workbench.costs import estimate
from workbench.domains.phrases import COLOURS, KINDS
from workbench.examples import ExampleSet
from workbench.finetune import FinetuneConfig
from workbench.formats import examples_to_coco
from workbench.guard import GuardConfig, replay_set
from workbench.negatives import mine
from workbench.recipe import LabelledPictures, Recipe, load_recipe, save_recipe
from workbench.run_events import Stopped
from workbench.training_job import JobSnapshot, TrainingJob, training_turn

MINE = "my labelled pictures"
RECIPES = Path(__file__).resolve().parents[1] / "recipes"
_EMPTY = "**No training yet.** Label pictures first (tab *Label*), or choose a recipe; then press **Start**."
_LOOKED_AT = 4  # pictures in which the model is asked for more phrases; it keeps others waiting meanwhile
_TRIED = (*KINDS, *(f"{colour} object" for colour in COLOURS))
_POINTS = 300  # of the curve that are drawn
_OPEN_SETTINGS = ("train.", "plan.", "guard.", "negatives.", "seed", "hold_out", "score_threshold")


@dataclass(frozen=True)
class _Wanted:
    """What the visitor chose for a training."""

    steps: int
    plan: str
    absent: tuple[str, ...]


def build(desk: Desk) -> None:
    """Fills the tab."""
    names = recipe_names()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            source = gr.Dropdown([MINE, *names], value=MINE, label="Learn from")
            name = gr.Textbox("mine", label="Name of the run", max_lines=1)
            with gr.Row():
                plan = gr.Dropdown(list(PLANS), value="decoder", label="Plan", info=PLANS["decoder"].summary)
            steps = gr.Slider(5, desk.limits.steps, 200, step=5, label="Steps")
            measured = gr.Slider(
                1, 20, 4, step=1, label="Pictures kept back to measure on", info="Of yours; never learnt. At most half."
            )
            absent = gr.Textbox(
                label="Phrases that are in none of the pictures",
                placeholder="star, key",
                info="The model learns to refuse them. What it claims wrongly today teaches most:",
            )
            suggest = gr.Button("Suggest some", size="sm")
            with gr.Accordion("More settings", open=False):
                more = gr.Textbox(
                    label="As in a recipe, one per line",
                    placeholder="train.rate=0.001\nplan.rank=4\nhold_out=2",
                    lines=3,
                    info=f"Names begin with {', '.join(_OPEN_SETTINGS)}.",
                )
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
                cost = gr.Button("Cost?", min_width=80)
                start = gr.Button("Start", variant="primary", min_width=100)
                stop = gr.Button("Stop", interactive=False, min_width=80)
                resume = gr.Button("Resume", interactive=False, min_width=90)
            note = gr.Markdown(visible=True, elem_classes="sw-hint")
            run = Choice([], label="Run that is shown")
            status = gr.HTML(f"<p>{_plain(_EMPTY)}</p>", elem_classes=["sw-status", "sw-run"])
            curve = gr.HTML(drawn(None), elem_classes="sw-status")
    timer = gr.Timer(1.5)
    seen = gr.Textbox(visible=False)

    @on_gpu
    @spoken
    def suggested(user: str, model: str, text: str, source_name: str) -> tuple[str, str]:
        """Adds phrases that the model wrongly finds in the pictures to those to refuse."""
        workspace = desk.of(user)
        examples = _learnt_from(workspace, source_name)
        with desk.shelf.lent(model, workspace) as loan:
            mined = mine(loan.model, examples[:_LOOKED_AT], _TRIED, progress=False)
        alarms = list(dict.fromkeys(one.phrase for one in mined.false_alarms))
        kept = [phrase for phrase in alarms if phrase not in phrases_in(text)][:6]
        if not kept:
            return text, f"{loan.label} claimed nothing else wrongly in {mined.num_asked} questions."
        aside = list(dict.fromkeys(one.phrase for one in mined.set_aside))[:4]
        doubt = f" Left out, because they may be other names of your objects: {', '.join(aside)}." if aside else ""
        return ", ".join([*phrases_in(text), *kept]), (
            f"{loan.label} wrongly found {', '.join(kept)}. **Look through them**: what is in any picture must go."
            f"{doubt}"
        )

    @on_gpu
    @spoken
    def costs(user: str, model: str, source_name: str, plan_name: PlanName, num_steps: float) -> str:
        """What a training would take, from trial steps."""
        workspace = desk.of(user)
        examples = _learnt_from(workspace, source_name)
        job = workspace.job()
        if job is not None and job.snapshot.is_running:
            raise ValueError("a training of yours runs now; ask for the cost when it has ended.")
        try:
            with training_turn(_soon()), desk.shelf.lent(model, workspace, is_bare=True) as loan:
                wanted, config = Plan(plan_name), FinetuneConfig(steps=int(num_steps))
                scenes = replay_set(GuardConfig().replay, wanted).examples
                found = estimate(loan.model, wanted, examples, config, scenes)
        except Stopped as error:
            raise ValueError(
                "another training runs on this machine; the cost can be tried when it has ended."
            ) from error
        return f"Expected on this machine: {found}. Measuring before and after comes on top."

    @spoken
    def started(
        user: str,
        model: str,
        source_name: str,
        run_name: str,
        plan_name: str,
        num_steps: float,
        kept_back: float,
        text: str,
        more_settings: str,
    ) -> tuple[Any, ...]:
        """Begins a training in the background."""
        workspace, overrides = desk.of(user), _settings_in(more_settings)
        current = workspace.job()
        if current is not None and current.snapshot.is_running:
            raise ValueError("a training of yours runs already; wait for it, or stop it first.")
        base = desk.shelf.split(model, workspace)[0]
        weights = desk.shelf.weights_of(base)
        with workspace.lock:
            out = workspace.free_run(run_name or source_name)
            out.mkdir()
            try:
                wanted = _Wanted(min(int(num_steps), desk.limits.steps), plan_name, tuple(phrases_in(text)))
                if source_name == MINE:
                    recipe = _own_recipe(workspace, out, weights, int(kept_back), wanted)
                else:
                    recipe = _named_recipe(source_name, weights, wanted)
                recipe = _with_settings(recipe, out / "job.yaml", overrides, desk.limits.steps)
            except ValueError:
                shutil.rmtree(out)
                raise
            job = TrainingJob(recipe, out, desk.shelf.device, RUN)
            workspace.keep_job(job)
            job.start()
        return look(user, out.name, "")

    @spoken
    def stopped(user: str, run_name: str) -> tuple[Any, ...]:
        """Asks the training to stop; what is done is kept."""
        if (job := desk.of(user).job(run_name)) is None:
            raise ValueError("no training is there to stop.")
        job.stop()
        return look(user, run_name, "")

    @spoken
    def resumed(user: str, run_name: str) -> tuple[Any, ...]:
        """Goes on with a training that was stopped."""
        workspace = desk.of(user)
        if (job := workspace.job(run_name)) is None:
            raise ValueError("no training is there to resume.")
        current = workspace.job()
        if current is not None and current is not job and current.snapshot.is_running:
            raise ValueError("another training of yours runs; stop it first.")
        job.start()
        return look(user, run_name, "")

    def look(user: str, run_name: str | None, before: str | None) -> tuple[Any, ...]:
        """What the run looks like now; nothing where nothing has changed since `before`."""
        workspace = desk.of(user)
        names = workspace.run_names()
        run_name = run_name if run_name in names else None
        job, current = workspace.job(run_name), workspace.job()
        if job is None or current is None:
            return _unchanged(before)
        is_free = not current.snapshot.is_running
        shot = job.snapshot
        now = f"{shot.out.name} {shot.phase} {shot.step} {shot.is_running} {len(names)} {'free' if is_free else 'busy'}"
        if now == before:
            return _unchanged(before)
        return (
            gr.update(choices=names, value=shot.out.name),
            now,
            in_html(shot),
            drawn(shot),
            gr.update(interactive=shot.is_running and shot.phase != "stopping"),
            gr.update(interactive=not shot.is_running and not shot.is_finished),
            gr.update(interactive=is_free),
        )

    @spoken
    def told(user: str, run_name: str) -> dict[str, Any]:
        """A run as plain values: phase, step, steps, losses, scores, is_running, is_finished, error."""
        job = desk.of(user).job(run_name or None)
        if job is None:
            return {"phase": "none", "is_running": False, "is_finished": False}
        shot = job.snapshot
        return {
            "run": shot.out.name,
            "phase": shot.phase,
            "step": shot.step,
            "steps": shot.steps,
            "losses": [list(pair) for pair in shot.losses],
            "scores": [list(pair) for pair in shot.scores],
            "seconds_left": shot.seconds_left,
            "is_running": shot.is_running,
            "is_finished": shot.is_finished,
            "error": shot.error,
        }

    def tick(user: str, run_name: str | None, before: str | None, count: float) -> tuple[Any, ...]:
        """Every second; tells the other tabs when a run has ended."""
        if not user:
            return (*_unchanged(gr.skip()), gr.skip())
        was_running = " True " in (before or "")
        result = look(user, run_name, before)
        has_ended = was_running and " False " in (result[1] or "")
        return (*result, count + 1 if has_ended else gr.skip())

    shown = [run, seen, status, curve, stop, resume, start]
    settings = [desk.user, desk.model, source, name, plan, steps, measured, absent, more]
    light: dict[str, Any] = {"show_progress": "hidden", **LIGHT_QUEUE}
    suggest.click(
        suggested,
        [desk.user, desk.model, absent, source],
        [absent, note],
        api_name="adapt_suggest",
        show_progress_on=note,
        **MODEL_QUEUE,
    )
    cost.click(
        costs,
        [desk.user, desk.model, source, plan, steps],
        note,
        api_name="adapt_cost",
        show_progress_on=note,
        **MODEL_QUEUE,
    )
    begun = start.click(started, settings, shown, api_name="adapt_start", **light)
    begun.success(None, js=bring_into_view(".sw-run"))
    stop.click(stopped, [desk.user, run], shown, api_name="adapt_stop", **light)
    resume.click(resumed, [desk.user, run], shown, api_name="adapt_resume", **light)
    run.input(
        lambda user, chosen_run: look(user, chosen_run, ""), [desk.user, run], shown, api_visibility="private", **light
    )
    timer.tick(tick, [desk.user, run, seen, desk.arrived], [*shown, desk.arrived], api_visibility="private", **light)
    source.change(
        lambda text: (gr.update(visible=text == MINE), "mine" if text == MINE else text),
        source,
        [measured, name],
        api_visibility="private",
        **light,
    )
    plan.change(lambda key: gr.update(info=PLANS[key].summary), plan, plan, api_visibility="private", **light)
    gr.api(told, api_name="adapt_status", **LIGHT_QUEUE)


def _unchanged(before: Any) -> tuple[Any, ...]:
    """What `look` gives where nothing has changed."""
    return (gr.skip(), before, *[gr.skip()] * 5)


def recipe_names() -> list[str]:
    """The recipes that came with the workbench."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml")) if RECIPES.is_dir() else []


def in_html(shot: JobSnapshot) -> str:
    """A run in words, with a bar."""
    share = 100 * shot.step / max(shot.steps, 1)
    left = "" if shot.seconds_left is None else f", about {_time(shot.seconds_left)} left in the training"
    closing = "" if IS_LENT else " This page may be closed meanwhile; the training goes on."  # a GPU is lent to a page
    words = {
        "waiting for its turn": "Waiting: another training runs on this machine; this one starts by itself.",
        "stopping": "Stopping after the step or picture it is at…",
        "stopped": f"Stopped at step {shot.step}. Nothing is lost: press <b>Resume</b> to go on.",
        "not started": "Not started: press <b>Resume</b>.",
        "failed": f"<b>It failed:</b> {_escaped(shot.error or '')}",
        "finished": "Finished. The tab <b>Compare</b> shows before and after.",
    }.get(shot.phase, f"{shot.phase.capitalize()}…{closing}")
    return (
        f"<p><b>{_escaped(shot.out.name)}</b>: {words}</p>"
        f"<div class='sw-bar'><div style='width:{share:.0f}%'></div></div>"
        f"<p>step {shot.step} of {shot.steps}{left}</p>"
    )


def _learnt_from(workspace: Workspace, source: str) -> ExampleSet:
    if source == MINE:
        return _labelled(workspace)
    recipe = load_recipe(_recipe_file(source))
    if isinstance(recipe.learn, LabelledPictures):
        return ExampleSet.from_coco(recipe.learn.annotations, recipe.learn.images, phrases=recipe.phrases)
    from workbench.domains.rendered import rendered_set

    return rendered_set(recipe.learn.rendered, recipe.shots, recipe.learn.seed, phrases=recipe.phrases)


def _labelled(workspace: Workspace) -> ExampleSet:
    """The pictures with any known answer.

    Raises:
        ValueError: too few of them.
    """
    session = workspace.session()
    examples = None if session is None else session.examples()
    known = [] if examples is None else list(dict.fromkeys(example.image_id for example, _ in examples.pairs()))
    if examples is None or len(known) < 2:
        raise ValueError(
            f"{len(known)} of your pictures are labelled; at least 2 are needed, and ten are better. In the tab Label, "
            "mark all objects of a phrase in a picture and tick that all are marked, or say that it is absent."
        )
    return examples.subset(known, "mine")


def _own_recipe(workspace: Workspace, out: Path, weights: str, kept_back: int, wanted: _Wanted) -> Recipe:
    """A recipe for the visitor's pictures; copies of them lie in the run's folder, so that later changes do no harm."""
    examples = _labelled(workspace)
    kept_back = min(kept_back, len(examples) // 2)
    learn, test = examples.few_shot(len(examples) - kept_back, seed=0)
    if not any(concept.status == "positive" for _, concept in test.pairs()):
        raise ValueError(
            f"none of the {kept_back} pictures that were kept back to measure on shows an object; keep back more, or "
            "label more pictures with objects."
        )
    for part, chosen in (("learn", learn), ("test", test)):
        examples_to_coco(chosen, out / "data" / f"{part}.json", images=out / "data" / part)
    sources = {
        part: LabelledPictures(annotations=out / "data" / f"{part}.json", images=out / "data" / part)
        for part in ("learn", "test")
    }
    return Recipe(
        name=out.name,
        model=weights,
        absent_phrases=wanted.absent,
        shots=len(learn),
        exhaustive=False,
        plan=Plan(wanted.plan),  # type: ignore[arg-type]
        train=FinetuneConfig(steps=wanted.steps),
        guard=GuardConfig(max_cgf1_loss=0.15, max_refusal_loss=0.1),
        learn=sources["learn"],
        test=sources["test"],
    )


def _named_recipe(name: str, weights: str, wanted: _Wanted) -> Recipe:
    changes = [f"train.steps={wanted.steps}", f"plan.name={wanted.plan}", f"model={weights}"]
    recipe = load_recipe(_recipe_file(name), changes)
    return (
        recipe.model_copy(update={"absent_phrases": (*recipe.absent_phrases, *wanted.absent)})
        if wanted.absent
        else recipe
    )


def _with_settings(recipe: Recipe, path: Path, overrides: list[str], most_steps: int) -> Recipe:
    """The recipe with further settings, written to a file from which the job can be found again."""
    save_recipe(recipe, path)
    recipe = load_recipe(path, overrides)
    if recipe.train.steps > most_steps:
        raise ValueError(f"{recipe.train.steps} steps were asked for; {most_steps} are allowed.")
    save_recipe(recipe, path)
    return recipe


def _settings_in(text: str | None) -> list[str]:
    """Settings of a recipe that a visitor may choose; none that names a file."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    for line in lines:
        if not line.startswith(_OPEN_SETTINGS):
            raise ValueError(
                f"received the setting {line!r}; expected names that begin with {', '.join(_OPEN_SETTINGS)}"
            )
    return lines


def _recipe_file(name: str) -> Path:
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {name!r}; expected one of {', '.join(recipe_names()) or 'none'}.")
    return RECIPES / f"{name}.yaml"


def _soon(tries: int = 20) -> Any:
    """Gives up waiting for a turn after about two seconds."""
    left = iter(range(tries))
    return lambda: next(left, None) is None


def drawn(shot: JobSnapshot | None) -> str:
    """The losses as a line over the steps."""
    losses = () if shot is None else shot.losses[:: max(1, len(shot.losses) // _POINTS)]
    if shot is None or len(losses) < 2:
        return "<p>The loss is drawn here as the training goes on.</p>"
    top, steps = max(loss for _, loss in losses), max(shot.steps, losses[-1][0])
    points = " ".join(f"{600 * step / steps:.1f},{160 - 150 * loss / max(top, 1e-9):.1f}" for step, loss in losses)
    scores = ", ".join(f"{100 * score:.0f} at step {step}" for step, score in shot.scores[-3:])
    return (
        f"<p><b>Loss</b>, {losses[0][1]:.1f} → {losses[-1][1]:.1f}{'; held-out cgF1 ' + scores if scores else ''}</p>"
        '<svg viewBox="0 0 600 165" style="width:100%;height:auto" role="img" aria-label="loss over the steps">'
        '<path d="M0 160H600" stroke="#c9d0d8"/>'
        f'<polyline points="{points}" fill="none" stroke="#0b5cad" stroke-width="2.5"/></svg>'
    )


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _plain(text: str) -> str:
    return text.replace("**", "").replace("*", "")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
