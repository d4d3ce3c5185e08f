"""A run's records come back as they were written, and its schedules keep their promises."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from events import GaussiansAdded, Notice, Progress
from fitting import recorder as recorder_module
from fitting.recorder import COLUMNS, Recorder
from fitting.schedule import GrowthPlan, LearningRateSchedule
from settings import Settings

UNHURRIED = hypothesis_settings(deadline=None)  # the machine may be busy with other things


def settings(**values: Any) -> Settings:
    return Settings.build(input_filename="cat.png", **values)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    made = Recorder(tmp_path / "session_1" / "run", {"seed": 7})
    made.open()
    return made


def facts(recorder: Recorder) -> dict[str, Any]:
    return json.loads((recorder.folder / "run.json").read_text(encoding="utf-8"))


def log(recorder: Recorder) -> list[str]:
    return (recorder.other / "log.txt").read_text(encoding="utf-8").splitlines()


def row(step: int, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, 0.5) | {"step": step} | values


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


class TestRows:
    def test_rows_come_back_exactly(self, recorder, rng):
        rows = [
            row(
                step, total_loss=float(rng.normal() * 10 ** rng.uniform(-300, 300)), num_bytes=2**60
            )
            for step in range(20)
        ]
        rows += [row(20, psnr=math.inf, ssim=-math.inf), row(21, total_loss=-0.0, psnr=5e-324)]
        for each in rows:
            recorder.measure(each)
        recorder.close("finished")
        again = Recorder(recorder.folder, {})
        again.load(1000)
        assert again.rows == rows
        assert all(type(new["step"]) is int for new in again.rows)
        assert math.copysign(1, again.rows[-1]["total_loss"]) == -1

    def test_what_is_no_number_comes_back_as_such(self, recorder):
        recorder.measure(row(3, total_loss=math.nan))
        recorder.close("failed")
        again = Recorder(recorder.folder, {})
        again.load(3)
        assert math.isnan(again.rows[0]["total_loss"])

    def test_the_columns_are_those_of_the_documents(self, recorder):
        recorder.measure(row(0))
        recorder.close("finished")
        header = (recorder.folder / "metrics.csv").read_text().splitlines()[0]
        assert header == (
            "step,total_loss,l1_loss,l2_loss,ssim_loss,psnr,ssim,num_gaussians,num_bytes,"
            "render_time_accum,total_time_accum"
        )

    def test_only_rows_up_to_the_step_of_a_checkpoint_are_taken_over(self, recorder):
        for step in (0, 10, 20, 30):
            recorder.measure(row(step))
        recorder.close("interrupted")
        again = Recorder(recorder.folder, {})
        again.load(20)
        assert [each["step"] for each in again.rows] == [0, 10, 20]

    def test_there_may_be_no_rows_to_take_over(self, recorder):
        recorder.load(10)
        assert recorder.rows == []

    @pytest.mark.parametrize(
        "text", ["step,psnr\n1\n", "step,psnr\n1,x\n", "psnr\n1\n", "step\n''"]
    )
    def test_damaged_measurements_are_given_up_with_a_notice(self, recorder, text):
        (recorder.folder / "metrics.csv").write_text(text)
        recorder.load(10)
        assert recorder.rows == []
        (notice,) = recorder.facts["notices"]
        assert notice.startswith("metrics.csv was damaged (")
        assert notice.endswith("): it begins after step 10")

    def test_a_resumed_run_keeps_the_log_of_the_attempt_before(self, recorder):
        recorder.fail(ValueError("first"))
        recorder.close("failed")
        again = Recorder(recorder.folder, {})
        again.load(7)
        again.close("finished")
        text = again.log_path.read_text()
        assert text.index("ValueError: first") < text.index("resumed after step 7")

    def test_without_measurements_there_is_no_file(self, recorder):
        recorder.close("finished")
        assert not (recorder.folder / "metrics.csv").exists()

    def test_measuring_often_writes_seldom_and_closing_writes_all(self, recorder, monkeypatch):
        clock = [1000.0]
        monkeypatch.setattr(recorder_module.time, "perf_counter", lambda: clock[0])

        def written() -> int:
            with (recorder.folder / "metrics.csv").open(newline="") as file:
                return len(list(csv.DictReader(file)))

        recorder.measure(row(0))
        assert written() == 1
        recorder.measure(row(1))
        assert written() == 1
        clock[0] += 1.5
        recorder.measure(row(2))
        assert written() == 3
        recorder.measure(row(3))
        recorder.close("finished")
        assert written() == 4


class TestFacts:
    def test_a_run_that_goes_on_says_so(self, recorder):
        found = facts(recorder)
        assert found["status"] == "running"
        assert found["seed"] == 7
        assert found["error"] == ""
        assert {"python", "torch", "splatbook"} <= found["versions"].keys()
        assert "T" in found["started"]

    def test_the_end_adds_what_is_known_then(self, recorder):
        recorder.notice("mind the gap")
        recorder.close("stopped early", scores={"psnr": math.inf}, seconds={"training": 1.5})
        found = facts(recorder)
        assert found["status"] == "stopped early"
        assert found["seed"] == 7
        assert found["scores"]["psnr"] == math.inf
        assert found["seconds"]["training"] == 1.5
        assert found["seconds"]["total"] >= 0
        assert found["notices"] == ["mind the gap"]

    def test_an_error_is_in_the_facts_and_its_origin_in_the_log(self, recorder):
        try:
            raise ArithmeticError("no longer finite")
        except ArithmeticError as error:
            recorder.fail(error)
        recorder.close("failed")
        assert facts(recorder)["error"] == "ArithmeticError: no longer finite"
        lines = log(recorder)
        assert lines[0].startswith("Traceback")
        assert lines[-1] == "ArithmeticError: no longer finite"
        assert all(line.strip() for line in lines)


class TestLog:
    def test_events_are_lines_in_their_order(self, recorder):
        recorder.note(Notice(0, 0.25, "hello"))
        recorder.note(GaussiansAdded(500, 12.5, 10, 2, 60))
        recorder.note(Progress(501, 12.6, 2000))
        recorder.close("finished")
        lines = log(recorder)
        assert len(lines) == 3
        assert "step 0 Notice message=hello" in lines[0]
        assert "12.500s step 500 GaussiansAdded added=10 moved=2 num_gaussians=60" in lines[1]

    def test_a_name_that_is_no_text_does_not_stop_the_log(self, recorder):
        recorder.note(Notice(0, 0.0, "caf\udce9.png"))
        recorder.close("finished")
        assert "caf" in log(recorder)[0]
        assert facts(recorder)["status"] == "finished"


class TestWholeFiles:
    def test_a_failure_while_writing_leaves_the_old_files(self, recorder):
        recorder.measure(row(0))
        recorder.close("interrupted")
        before = {
            name: (recorder.folder / name).read_bytes() for name in ("metrics.csv", "run.json")
        }
        names = files(recorder.folder)
        recorder._written = 0.0
        with pytest.raises(TypeError):
            recorder.measure(row(1, psnr=object()))
        recorder.rows.pop()
        with pytest.raises(TypeError):
            recorder.close("finished", scores=object())
        assert {name: (recorder.folder / name).read_bytes() for name in before} == before
        assert files(recorder.folder) == names

    def test_a_stop_while_writing_leaves_the_old_files(self, recorder, monkeypatch):
        recorder.close("interrupted")
        before = (recorder.folder / "run.json").read_bytes()

        def stopped(self: Path, *args: Any, **options: Any) -> None:
            with self.open("w") as file:
                file.write("{")
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "write_text", stopped)
        with pytest.raises(KeyboardInterrupt):
            recorder.close("finished")
        assert (recorder.folder / "run.json").read_bytes() == before
        assert files(recorder.folder) == {"run.json", "log.txt"}

    def test_a_folder_that_cannot_be_made_is_told(self, tmp_path):
        (tmp_path / "taken").touch()
        with pytest.raises(OSError, match="taken"):
            Recorder(tmp_path / "taken" / "run", {}).open()


def verdicts(measured: list[tuple[int, float, float]], **values: Any) -> list[str]:
    schedule, chosen = LearningRateSchedule(), settings(**values)
    return [schedule.update(psnr, ssim, step, chosen) for step, psnr, ssim in measured]


class TestLearningRateSchedule:
    def test_a_stall_divides_the_rates_and_a_second_one_stops(self):
        stalled = [(step, 30.0, 0.9) for step in range(100, 2400, 100)]
        found = verdicts(stalled, check_decay_steps=1000, max_decay_times=1)
        wanted = ["go on"] * 10 + ["decay"] + ["go on"] * 9 + ["stop"] * 3
        assert found == wanted

    @pytest.mark.parametrize("times", [0, 3])
    def test_rates_are_divided_as_often_as_the_settings_say(self, times):
        stalled = [(step, 30.0, 0.9) for step in range(100, 10_000, 100)]
        found = verdicts(stalled, check_decay_steps=500, max_decay_times=times)
        assert found.count("decay") == times
        assert found.index("stop") == 5 * (times + 1)
        assert set(found[found.index("stop") :]) == {"stop"}

    @pytest.mark.parametrize(("psnr", "ssim"), [(0.11, 0.0), (0.0, 0.0011), (0.11, -0.5)])
    def test_either_score_may_improve(self, psnr, ssim):
        rising = [(k * 100, 20 + psnr * k, 0.5 + ssim * k) for k in range(1, 50)]
        assert set(verdicts(rising, check_decay_steps=100)) == {"go on"}

    def test_small_gains_are_no_improvement(self):
        creeping = [(k * 100, 20 + 0.004 * k, 0.5 + 0.00004 * k) for k in range(1, 25)]
        assert verdicts(creeping, check_decay_steps=1000).index("decay") == 10

    def test_small_gains_that_add_up_are_one(self):
        creeping = [(k * 100, 20 + 0.04 * k, 0.5) for k in range(1, 60)]
        assert set(verdicts(creeping, check_decay_steps=1000)) == {"go on"}

    def test_a_worse_measurement_does_not_lower_the_mark(self):
        measured = [(100, 30.0, 0.9), (200, 20.0, 0.5), (300, 29.0, 0.8), (400, 30.05, 0.9)]
        assert verdicts(measured, check_decay_steps=300)[-1] == "decay"

    def test_the_mark_of_one_score_stays_where_the_other_improved(self):
        measured = [(100, 30.0, 0.5), (200, 25.0, 0.6), (300, 29.9, 0.6), (400, 29.9, 0.6)]
        assert verdicts(measured, check_decay_steps=200)[-1] == "decay"

    def test_the_first_measurement_is_the_mark_whenever_it_comes(self):
        assert verdicts([(5000, 10.0, 0.1)], check_decay_steps=1000) == ["go on"]

    @pytest.mark.parametrize("threshold", [0.0, 1e-3])
    @pytest.mark.parametrize("psnr", [40.0, math.inf])
    def test_what_stands_still_stalls_even_when_perfect(self, threshold, psnr):
        still = [(step, psnr, 1.0) for step in range(0, 600, 100)]
        found = verdicts(still, check_decay_steps=200, decay_threshold=threshold)
        assert found == ["go on", "go on", "decay", "go on", "stop", "stop"]

    def test_with_threshold_0_any_gain_counts(self):
        rising = [(k * 100, 20 + 1e-6 * k, 0.5) for k in range(1, 20)]
        assert set(verdicts(rising, check_decay_steps=100, decay_threshold=0)) == {"go on"}


class TestGrowthPlan:
    @UNHURRIED
    @given(
        gaussians=st.integers(1, 20_000),
        steps=st.integers(0, 20_000) | st.integers(0, 10_000_000),
        initial_ratio=st.floats(0, 1, exclude_min=True),
        add_steps=st.integers(1, 10_000) | st.integers(1, 10_000_000),
        add_times=st.integers(1, 1000),
        post_min_steps=st.integers(0, 10_000_000),
        progressive=st.booleans(),
        adaptive=st.booleans(),
    )
    def test_all_gaussians_come_and_none_after_the_run(
        self, gaussians, steps, initial_ratio, add_steps, add_times, post_min_steps, progressive,
        adaptive,
    ):  # fmt: skip
        chosen = settings(
            gaussians=gaussians, steps=steps, initial_ratio=initial_ratio, add_steps=add_steps,
            add_times=add_times, post_min_steps=post_min_steps, use_progressive=progressive,
            adaptive_refinement=adaptive,
        )  # fmt: skip
        plan = GrowthPlan.of(chosen)
        assert plan.initial >= 1
        assert plan.initial + sum(plan.additions.values()) == gaussians
        assert all(count >= 0 for count in plan.additions.values())
        assert all(type(step) is int and 0 <= step <= steps for step in plan.additions)
        assert list(plan.additions) == sorted(plan.additions)
        assert plan.last_step == max(plan.additions, default=0)
        assert len(plan.additions) <= add_times
        if not progressive:
            assert plan.initial == gaussians
        if not adaptive:
            assert all(plan.additions.values())

    def test_the_documented_plan(self):
        plan = GrowthPlan.of(settings(gaussians=1000, steps=5000, use_progressive=True))
        assert plan == GrowthPlan(500, {500: 125, 1000: 125, 1500: 125, 2000: 125})
        assert plan.last_step == 2000

    def test_a_short_run_scales_the_plan_down_and_says_so(self):
        plan = GrowthPlan.of(settings(gaussians=1000, steps=1000, use_progressive=True))
        assert plan.additions == {100: 125, 200: 125, 300: 125, 400: 125}
        assert "every 100 steps instead of every 500" in plan.notice

    def test_what_cannot_be_shared_evenly_is_shared_all_the_same(self):
        plan = GrowthPlan.of(
            settings(gaussians=101, steps=5000, use_progressive=True, initial_ratio=0.1)
        )
        assert plan.initial == 10
        assert sorted(plan.additions.values()) == [22, 23, 23, 23]

    def test_without_growth_all_are_there_from_the_start(self):
        plan = GrowthPlan.of(settings(gaussians=77, steps=10))
        assert plan == GrowthPlan(77, {})
        assert plan.last_step == 0

    def test_refinement_alone_moves_without_adding(self):
        plan = GrowthPlan.of(settings(gaussians=77, steps=5000, adaptive_refinement=True))
        assert plan == GrowthPlan(77, {500: 0, 1000: 0, 1500: 0, 2000: 0})

    def test_given_gaussians_do_not_grow_and_the_run_says_so(self):
        growing = {"use_progressive": True, "init_gaussian_file": "model.pt"}
        plan = GrowthPlan.of(settings(gaussians=77, **growing))
        assert (plan.initial, plan.additions) == (77, {})
        assert "init_gaussian_file" in plan.notice
        assert not GrowthPlan.of(settings(init_gaussian_file="model.pt")).notice
