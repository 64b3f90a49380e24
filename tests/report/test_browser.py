"""The page in a real browser: everything is drawn, hostile texts stay texts, and hands and eyes can use it."""

from __future__ import annotations

import threading

import pytest
from browser import chromium, opened
from report_fakes import EVIL, hostile, modelled, study, trial

import tunesmith
from tunesmith.record import Record
from tunesmith.report.dashboard import Dashboard
from tunesmith.report.page import write_report
from tunesmith.trial import Report, TrialState

TOKEN = "right-token-0123456789"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of forty trials, of which two failed and one was stopped."""
    trials = [
        *modelled().trials,
        trial(40, TrialState.PRUNED, reason="pruned: worse than the median", params={"x": 0.9, "y": 0.1}),
        trial(41, TrialState.FAILED, reason="oom: CUDA out of memory", detail="Traceback of 41", params={"x": 1, "y": 1}),
        trial(42, TrialState.FAILED, reason="oom: CUDA out of memory", detail="Traceback of 42", params={"x": 1, "y": 1}),
    ]  # fmt: skip
    return write_report(study(trials), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def page(browser, report):
    """That report, opened."""
    found = opened(browser, report)
    yield found
    assert found.wrong == []
    found.context.close()


@pytest.fixture
def server(tmp_path):
    """A dashboard of the study in `tmp_path`."""
    with Dashboard(lambda: [tmp_path], host="127.0.0.1", port=0, token=TOKEN) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def rows(page):
    """The numbers of the trials in the table."""
    return [int(row.get_attribute("data-trial")) for row in page.query_selector_all("tr[data-trial]")]


def drag(page, axis, high, low):
    """Drag along an axis of the parallel coordinates, between parts of its height from its top."""
    grab = page.locator(f".axis[aria-label='{axis}'] .grab")
    grab.scroll_into_view_if_needed()
    box = grab.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + high * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.5 * (high + low) * box["height"], steps=3)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + low * box["height"], steps=3)
    page.mouse.up()


def test_every_section_chart_and_trial_is_drawn(page):
    assert page.locator("section").evaluate_all("all => all.map(s => s.ariaLabel)") == [
        "Objective over trials", "Which parameters matter", "Parameters against objective", "The two that matter most",
        "Parallel coordinates", "Learning curves", "What failed", "When trials ran", "Trials (43)",
    ]  # fmt: skip
    assert page.locator("canvas").count() == 5  # the objective, two parameters, their map, the curves
    assert page.locator(".parallel path").count() == 40
    assert rows(page) == list(range(43))
    assert "trained again it would come to" in page.locator("[aria-label='can the best be trusted?']").inner_text()
    assert "43 trials" in page.locator(".lead").first.inner_text()
    axes = page.locator("[role=slider]")
    assert axes.evaluate_all("all => all.map(a => a.getAttribute('aria-label'))") == ["x", "y", "objective"]
    assert axes.evaluate_all("all => all.every(a => a.tabIndex === 0 && a.getAttribute('aria-valuetext') === 'all')")


def test_what_failed_unfolds_to_its_newest_traceback(page):
    failed = page.locator("section[aria-label='What failed']")
    assert "Traceback" not in failed.inner_text()
    failed.get_by_text("oom: CUDA out of memory").click()
    assert "trials 41, 42" in failed.inner_text()
    assert "all have x = 1, as none of the 41 that did not fail" in failed.inner_text()
    assert "Traceback of 42" in failed.inner_text()


def test_everything_that_reacts_has_a_name_and_headings_are_in_order(page):
    nameless = (
        """all => all.filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).map(e => e.outerHTML)"""
    )
    for kind in ("button", "select", "input", "[role=img]", "[role=slider]", "[role=group]", "[role=region]"):
        assert page.locator(kind).evaluate_all(nameless) == []
    assert page.locator("h1, h2").evaluate_all("all => all.map(e => e.tagName)") == ["H1"] + ["H2"] * 9


def test_a_range_dragged_on_an_axis_selects_the_trials_in_the_table(page):
    drag(page, "x", 0.0, 0.5)
    selected = rows(page)
    upper = [t.number for t in modelled().trials if t.params["x"] > 0.52]
    assert set(upper) <= set(selected)
    assert len(selected) <= len(upper) + 3  # the drag ends on a pixel, not on a number
    assert page.locator(".parallel path:not(.out)").count() == len(selected)
    drag(page, "objective", 0.0, 0.3)
    both = rows(page)
    assert 0 < len(both) < len(selected)
    assert set(both) < set(selected)
    assert f"{len(both)} of 43" in page.locator("section[aria-label^=Trials]").inner_text()
    page.get_by_text("Clear the selection").click()
    assert len(rows(page)) == 43


def test_the_keyboard_selects_sorts_and_copies(page):
    axis = page.locator(".axis[aria-label=x]")
    axis.focus()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    lower = rows(page)
    assert 0 < len(lower) < 40
    assert axis.get_attribute("aria-valuetext").startswith("0.")
    page.keyboard.press("Shift+ArrowDown")
    assert set(rows(page)) <= set(lower)
    page.keyboard.press("Escape")
    assert len(rows(page)) == 43
    page.locator("th button", has_text="objective").focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").inner_text() == "objective"
    assert page.locator("tr[data-trial]").first.get_attribute("class") == "best"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "x"
    page.locator("button", has_text="YAML").focus()
    page.keyboard.press("Space")
    assert page.locator(".top pre").inner_text().startswith("x: ")


def test_a_point_that_is_clicked_is_found_in_the_table(page):
    page.locator(".timeline rect.failed").first.click()
    assert page.locator("tr.found").get_attribute("data-trial") == "41"
    over = page.locator("section[aria-label='Objective over trials'] .u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    for k in range(40):  # along the chart's bottom, where the best lie, until the tip names one
        page.mouse.move(box["x"] + (k + 0.5) / 40 * box["width"], box["y"] + 0.97 * box["height"])
        if page.locator(".tip:not([hidden])").count():
            break
    assert page.locator(".tip:not([hidden])").first.inner_text().startswith(("trial ", "best so far"))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser, report, width):
    page = opened(browser, report, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".plot canvas").evaluate_all("all => Math.max(...all.map(c => c.clientWidth))") <= width
    row = page.locator("tr.best").bounding_box()
    other = page.locator("tr.complete").first.bounding_box()
    assert row["height"] == pytest.approx(other["height"], abs=1)
    page.context.close()


def test_colours_follow_the_readers_scheme_in_charts_too(page):
    ink = """() => {
      const c = document.querySelector("canvas");
      const all = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      const seen = new Set();
      for (let k = 0; k < all.length; k += 4) if (all[k + 3] === 255) seen.add(`${all[k]},${all[k + 1]},${all[k + 2]}`);
      return [...seen];
    }"""
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert "37,99,201" in page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    while "119,170,255" not in page.evaluate(ink):  # the page's policy lets nothing be evaluated in it again and again
        page.wait_for_timeout(50)
    assert page.evaluate(paper) == "rgb(18, 22, 27)"


def test_on_paper_everything_is_unfolded_and_fits(browser, report):
    page = opened(browser, report, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('main').scrollWidth") <= 720
    assert "Traceback of 42" in page.inner_text("body")
    assert page.locator("select").is_hidden()
    assert b"/Page" in page.pdf(format="A4")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert "Traceback of 42" not in page.inner_text("body")
    page.context.close()


def test_two_objectives_have_a_pareto_front(browser, tmp_path):
    trials = [
        *[trial(k, values=(1 / (k + 1), float(k))) for k in range(12)],
        trial(12, TrialState.PRUNED, reason="pruned: worse than the median", reports=(
            Report(1, (0.5, 2.0), share=0.1), Report(2, (0.4, 2.0), share=0.2))),
    ]  # fmt: skip
    two = study(trials, directions=("minimize", "maximize"), best=[trials[0], trials[11]])
    page = opened(browser, write_report(two, tmp_path / "report.html"))
    charts = page.locator("[role=img]").evaluate_all("all => all.map(e => e.getAttribute('aria-label').split(':')[0])")
    assert sorted(charts) == [
        "Pareto front", "kind", "lr", "objective 0", "objective 0, minimize", "objective 1, maximize", "timeline",
    ]  # fmt: skip
    page.get_by_text("1 stopped or failed: why").click()
    assert "trial 12, at 20 %: pruned: worse than the median" in page.inner_text("body")
    assert page.wrong == []
    page.context.close()


def test_an_empty_study_says_so(browser, tmp_path):
    page = opened(browser, write_report(study([]), tmp_path / "report.html"))
    assert "no trials yet" in page.inner_text("body")
    assert page.wrong == []
    page.context.close()


def assert_harmless(page, address):
    """Nothing of a hostile study became an element, ran, or was fetched."""
    assert page.wrong == []
    assert {url.removeprefix(address).removeprefix("events") for url in page.asked} <= {"", "/favicon.ico"}
    assert "owned" not in page.title().replace("document.title = 'owned'", "")
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, link, object, base, a").count() == 0
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]


def test_hostile_texts_stay_texts_and_fetch_nothing(browser, tmp_path):
    path = write_report(hostile(), tmp_path / "report.html")
    page = opened(browser, path)
    for details in page.locator("details > summary").all():
        details.click()
    assert len(rows(page)) == len(hostile().trials)
    assert EVIL[0] in page.inner_text("h1")
    assert_harmless(page, path.as_uri())
    page.context.close()


def test_a_hostile_study_stays_text_on_the_dashboard_and_the_page_is_live(browser, server, tmp_path):
    def objective(trial):
        trial.suggest_float("x", 0, 1)
        trial.suggest_categorical(EVIL[trial.number], [EVIL[trial.number]])
        trial.set_user_attr("note", EVIL[trial.number])
        if trial.number % 2:
            raise ValueError(EVIL[trial.number])
        return 0.0

    tunesmith.search(objective, 9, directory=tmp_path, study=EVIL[1], max_failures=99, progress=False).record.close()
    address = f"http://127.0.0.1:{server.server_port}/s/{next(iter(server.feeds()))}/"
    page = opened(browser, address)
    assert "finished" in page.inner_text("body")
    assert EVIL[1] in page.inner_text("h1")
    with Record.open(tmp_path) as record:
        record.add_waiting({EVIL[0]: EVIL[0]})
    page.wait_for_selector("tr[data-trial='9']")
    assert_harmless(page, address)
    page.context.close()


def test_the_dashboards_buttons_act_and_the_page_shows_it(browser, server, tmp_path):
    tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 3, directory=tmp_path, seed=0, progress=False).record.close()
    page = opened(browser, f"http://127.0.0.1:{server.server_port}/s/{next(iter(server.feeds()))}/")
    page.get_by_label("note, or NAME=VALUE").fill("x=0.25")
    page.get_by_text("Try these").click()
    page.get_by_text("open the address that").or_(page.get_by_text("needs the token")).first.wait_for()
    page.goto(f"http://127.0.0.1:{server.server_port}/?token={TOKEN}")
    page.wait_for_selector("html[data-ready=true]", state="attached")
    page.get_by_label("note, or NAME=VALUE").fill("x=0.25")
    page.get_by_text("Try these").click()
    page.wait_for_selector("tr[data-trial='3']")
    page.get_by_label("trial", exact=True).fill("1")
    page.get_by_label("note, or NAME=VALUE").fill("an outlier")
    page.get_by_text("Note on trial").click()
    page.get_by_role("cell", name="an outlier").wait_for()
    page.context.close()
