"""A fine-tuning run from top to bottom: what `accelerate launch toolkit/finetune.py` starts on every rank."""

import argparse
import faulthandler
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from toolkit.checkpoints.export import Targets, export
from toolkit.checkpoints.identity import identity_of
from toolkit.checkpoints.shelf import Shelf, share_of_disk
from toolkit.checkpoints.shelves import open_shelf
from toolkit.engines import engine_for
from toolkit.errors import Preempted, ToolkitError
from toolkit.launcher.processes import die_with_parent
from toolkit.models.build import build_model
from toolkit.models.pretrained import count_parameters, load_tokenizer
from toolkit.planner.plan import Plan
from toolkit.preflight.outcome import Outcome
from toolkit.preflight.parity import check_parity
from toolkit.preflight.run import preflight
from toolkit.preflight.setting import Setting
from toolkit.run_folder import ERROR_MARK, PREFLIGHTS, RunFolder, checkpoint_step
from toolkit.specs.recipe import Recipe
from toolkit.staging import staged
from toolkit.training.before import evaluate_before
from toolkit.training.evaluation import evaluate
from toolkit.training.heartbeat import Heartbeat
from toolkit.training.introduction import introduction
from toolkit.training.memory import begin_memory_watch, disk_traffic, forget_peak, memory_of_rank
from toolkit.training.out_of_memory import memory_fault
from toolkit.training.rows import held_out_test, prepared_data, share_of, training_batches
from toolkit.training.session import Session
from toolkit.training.summary import write_summary
from toolkit.training.trackers import check_trackers


def parse_args() -> argparse.Namespace:
    """Recipe, plan, and what becomes of earlier results."""
    parser = argparse.ArgumentParser(prog="finetune.py", description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.yaml of the run")
    parser.add_argument("--plan", type=Path, required=True, help="plan.json of the run; results go to its folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run")
    parser.add_argument("--resume", metavar="auto|STEP", help="go on from a checkpoint, even after the end of the run")
    parser.add_argument(
        "--preflight", choices=PREFLIGHTS, default="fast", help="what to look at before the first step (fast)"
    )
    return parser.parse_args()


def main() -> None:
    """Load, go on from the last checkpoint, train, evaluate before and after, export."""
    started = time.time()
    faulthandler.enable()  # a rank that a library aborts says where it was
    die_with_parent()  # killed itself, torchrun's agent would leave the ranks training
    args = parse_args()
    folder, plan, recipe = inputs(args)
    is_main = os.environ.get("RANK", "0") == "0"
    _lock = folder.lock() if is_main else None
    if not args.overwrite and args.resume is None:
        folder.refuse_finished()
    torch.manual_seed(recipe.seed)

    parity = check_parity(plan, folder, os.environ) if args.preflight == "full" else None
    # Samples before processes: minutes of tokenizing inside the group would run into its timeout.
    tokenizer = load_tokenizer(recipe.model, plan.model, plan.workload.new_tokens)
    data = prepared_data(recipe, tokenizer)
    rss_at_start = begin_memory_watch()
    model = build_model(plan, recipe)
    trainable, total = count_parameters(model.module)
    engine = engine_for(plan, recipe, model=model, folder=folder)
    shelf = open_shelf(folder, engine, recipe.checkpoint)
    _own_lock = folder.lock() if shelf.disks.leads and not is_main else None  # of a host with a disk of its own
    torch.manual_seed(recipe.seed + engine.data_rank)  # from here on only dropout draws: not the same on every rank
    batches = training_batches(recipe, data, share=share_of(plan, engine))
    held_out = held_out_test(recipe, data, share_of(plan, engine))
    goes_on = bool(shelf.steps()) and not args.overwrite
    share = share_of_disk(shelf.disks, recipe.checkpoint)
    look_over(Setting(plan, recipe, folder, engine, data, batches, trainable, goes_on, share), args.preflight, parity)
    identity = identity_of(plan, recipe, samples=batches.fingerprint(), model=model)
    make_room(folder, shelf, overwrite=args.overwrite)  # only now: a run that could not start has cost nothing
    with (
        Heartbeat(folder, engine.rank, hang_minutes=recipe.faults.hang_minutes) as heartbeat,
        memory_fault(plan, folder.path, rank=engine.rank, place=lambda: heartbeat.place),
    ):
        before = evaluate_before(engine, held_out, folder, keeps=shelf.disks.leads)
        session = Session(folder, plan, recipe, engine, batches, held_out, identity, shelf, before)
        traffic = disk_traffic()
        told = introduction(plan, data, engine, batches=batches, trainable=trainable, total=total)
        trained = session.train(heartbeat, step=checkpoint_step(args.resume), introduction=told)
        heartbeat.phase("end")
        seen = memory_of_rank(engine.rank, engine.device, rss_at_start=rss_at_start, traffic_at_start=traffic)
        memory = engine.gather(seen)
        after = trained.evaluation or evaluate(engine, held_out)
        stops = data.encoder.stop_token_ids()
        heartbeat.phase("export", patience=60)  # a large model goes through one rank, onto a slow disk
        targets = Targets(folder.export, folder.adapter)
        export(engine, targets, plan=plan, recipe=recipe, tokenizer=tokenizer, stop_token_ids=stops)
    if is_main:
        facts = {
            "wall_seconds": time.time() - started,
            "trainable_parameters": trainable,
            "parameters": total,
            "data": asdict(data.statistics),
            "memory_by_rank": memory,
            **trained.facts,
        }
        write_summary(folder, plan, trained.records, before=before, after=after, facts=facts)
    engine.close()


def make_room(folder: RunFolder, shelf: Shelf, *, overwrite: bool) -> None:
    """Remove results of an earlier start, on every host's disk."""
    if overwrite:
        shelf.clear()
    if shelf.disks.leads:
        folder.remove_results(all_of_them=overwrite)


def inputs(args: argparse.Namespace) -> tuple[RunFolder, Plan, Recipe]:
    """The run's files, which fit each other and the ranks that were started."""
    folder = RunFolder(args.plan.parent)
    plan, recipe = Plan.load(args.plan), staged(Recipe.load(args.recipe), say=print)
    plan.check_workload(recipe.workload, folder.path)
    plan.check_ranks(os.environ, folder.path)
    check_trackers(recipe.trackers)
    return folder, plan, recipe


def look_over(setting: Setting, mode: str, parity: Outcome | None) -> None:
    """Stop here if anything of the run is wrong."""
    if mode != "off":
        engine = setting.engine
        with memory_fault(setting.plan, setting.folder.path, rank=engine.rank, place=lambda: "before its first step"):
            preflight(setting, parity)
        forget_peak()  # the plain model was only there to be compared with


if __name__ == "__main__":
    try:
        main()
    except ToolkitError as error:
        # Rank 0 says what all ranks see; another rank speaks only if rank 0 lives on.
        time.sleep(0 if os.environ.get("RANK", "0") == "0" else 2)
        for line in str(error).splitlines():
            print(f"{ERROR_MARK}{type(error).__name__}: {line}", file=sys.stderr)
        # A rank that leaves on demand has not failed: torchrun must neither report it nor start it again.
        sys.exit(0 if isinstance(error, Preempted) else error.exit_code)
