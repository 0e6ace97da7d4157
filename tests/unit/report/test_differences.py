"""What several runs were given differently, on the console too."""

from pathlib import Path

import pytest
from rich.console import Console

from toolkit.planner.plan import Plan
from toolkit.report.differences import Difference, differences, in_words
from toolkit.report.record import read_records
from toolkit.report.results import measured
from toolkit.report.run_table import runs_report
from unit.report.conftest import MakePlan, MakeRun, step_lines


def printed(folders: list[Path]) -> str:
    console = Console(width=120, record=True)
    console.print(runs_report([measured(record) for record in read_records(folders)]))
    return " ".join(console.export_text().split())


def test_every_file_says_what_differs(make_run: MakeRun, tiny: Plan, make_plan_of: MakePlan) -> None:
    work = {"seq_len": 8, "global_batch": 8}
    other = make_plan_of("smollm-135m", "2xcpu", work=work, zero_stage=2, micro_batch=4)
    config = {"zero_optimization": {"stage": 1}, "gradient_clipping": 1.0}
    edited = {"zero_optimization": {"stage": 1, "overlap_comm": True}, "gradient_clipping": 0.5}
    started = [{"event": "started", "step": 0, "versions": {"torch": torch}} for torch in ("2.13.0", "2.14.0")]
    one = make_run("one", ds_config=config, events=started[:1], max_steps=9)
    two = make_run("two", plan=other, ds_config=edited, events=started[1:], optimizer={"learning_rate": 0.5})
    assert differences(read_records([one, two])) == (
        Difference("recipe", "max_steps", ("9", "-")),
        Difference("recipe", "optimizer.learning_rate", ("2e-05", "0.5")),
        Difference("plan", "strategy.zero_stage", ("1", "2")),
        Difference("ds_config", "gradient_clipping", ("1.0", "0.5")),
        Difference("ds_config", "zero_optimization.overlap_comm", ("-", "true")),
        Difference("versions", "torch", ("2.13.0", "2.14.0")),
    )


def test_what_a_run_does_not_say_is_no_difference(make_run: MakeRun) -> None:
    started = [{"event": "started", "step": 0, "versions": {"torch": "2.13.0"}}]
    one, two = make_run("one", events=started), make_run("two")
    (two / "ds_config.json").write_text("{" * 2000)
    (one / "ds_config.json").write_text('{"a": ' * 900 + "1" + "}" * 900)
    assert differences(read_records([one, two])) == ()
    assert "are the same" in printed([one, two])


def test_secrets_and_the_home_folder_are_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert in_words([f"{tmp_path}/data.jsonl", "0123456789abcdef"]) == '["~/data.jsonl", "***"]'


def test_the_best_of_several(make_run: MakeRun) -> None:
    folders = [
        make_run(f"run-{rate}", steps=step_lines(2, loss=loss), seed=7, optimizer={"learning_rate": rate})
        for rate, loss in ((0.1, 3.0), (0.2, 1.5), (0.3, None))
    ]
    console = Console(width=120, record=True, color_system="truecolor", force_terminal=True)
    console.print(runs_report([measured(record) for record in read_records(folders)]))
    styled = console.export_text(styles=True)
    assert "\x1b[1m1.5000" in styled
    assert "\x1b[1m3.0000" not in styled
    assert "recipe: optimizer.learning_rate 0.1 0.2 0.3" in printed(folders)
    assert "run-0.3 step 1: the loss is no number" in printed(folders)


def test_of_many_runs_values_name_their_runs(make_run: MakeRun) -> None:
    folders = [make_run(f"r{place}", seed=place % 2) for place in range(6)]
    assert "recipe: seed 0 (r0, r2, r4), 1 (r1, r3, r5)" in printed(folders)
