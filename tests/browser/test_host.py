"""The host that revives widgets on a page without kernel, with widgets of a few lines."""

import base64
import hashlib
import json
import shutil

import pytest
import torch
from torch import nn

from chapters._tools.book_site import ENGINE, ENGINE_FILES, ENGINE_ON_CDN, finish_page
from gdm_lib import pretrained
from gdm_lib.widgets import LatentExplorer, export
from tests.browser.conftest import served
from tests.browser.widget_page import ENGINE_READY, pictures, settle, wait_for_change, write_page

COUNTER = """export default { render({ model, el }) {
  const button = document.createElement('button');
  const show = () => button.textContent = `${model.get('name')} ${model.get('count')}`;
  button.onclick = () => { model.set('count', model.get('count') + 1); model.save_changes(); };
  model.on('change:count', show);
  show();
  el.append(button);
} }"""


@pytest.fixture(scope="module")
def digits():
    return pretrained.load("vae/mnist_2d")


# As on a page that comes over http from another machine.
NO_SUBTLE = "Object.defineProperty(Crypto.prototype, 'subtle', { get: () => undefined })"
FIGURE = (
    '<figure data-gdm-widget="{id}" data-gdm-alone="{alone}">'
    '<img alt="still" width="40" height="40" '
    'src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="><figcaption>Still.</figcaption>'
    "</figure>"
)
PAGE = """<!doctype html><link rel="icon" href="data:,"><style>figure {{ height: 60px }}</style>
{body}<p id="after">After</p>
<script type="application/vnd.jupyter.widget-state+json">{state}</script>
<script type="module" data-gdm-runtime="onnxruntime/" src="_static/widgets/host.js"></script>"""


@pytest.fixture
def page_of(tmp_path, visit):
    """Opens a page of bare widgets: ``page_of({id: state entry}, between="html")``."""
    write_page(tmp_path, name="unused.html")
    with served(tmp_path) as address:

        def open_page(state, *, between="", raw=None, alone="true", secure=True):
            if not secure:
                visit.page.add_init_script(NO_SUBTLE)
            body = between.join(FIGURE.format(id=name, alone=alone) for name in state)
            text = raw or json.dumps({"state": state}).replace("<", "\\u003c")
            (tmp_path / "bare.html").write_text(PAGE.format(body=body, state=text))
            visit.page.goto(f"{address}/bare.html")
            visit.page.wait_for_timeout(400)
            return visit

        yield open_page


def entry(esm=COUNTER, *, buffers=(), **state):
    return {"model_name": "AnyModel", "state": {"_esm": esm, **state}, "buffers": list(buffers)}


class TestAnyWidget:
    def test_two_widgets_keep_their_own_values(self, page_of):
        visit = page_of({"a": entry(name="a", count=0), "b": entry(name="b", count=10)})
        buttons = visit.page.get_by_role("button")
        buttons.nth(0).click()
        buttons.nth(0).click()
        buttons.nth(1).click()
        assert buttons.all_inner_texts() == ["a 2", "b 11"]
        assert visit.page.locator("img, figcaption").count() == 0
        assert visit.errors == []

    def test_events_are_those_of_a_kernels_model(self, page_of):
        script = """export default { render({ model, el }) {
          const log = [];
          const heard = (m, v) => log.push(`x ${v}`);
          model.on('change:x', heard);
          model.on('change', () => log.push('any'));
          model.on('msg:custom', (content) => log.push(content.kind));
          model.set('x', 1); model.set('x', 1); model.set('x', 2);
          model.off('change:x', heard);
          model.set('x', 3);
          model.off('change');
          model.set('x', 4);
          model.send({ kind: 'other' });
          model.save_changes();
          el.textContent = log.join(', ') + '; ' + model.get('x') + ' ' + model.get('none');
        } }"""
        visit = page_of({"a": entry(script, x=0)})
        text = visit.page.locator("figure").inner_text()
        assert text == "x 1, any, x 2, any, any; 4 undefined"

    def test_binary_values_arrive_where_they_were(self, page_of):
        data = bytes(range(256))
        buffers = [
            {"path": ["a"], "encoding": "base64", "data": base64.b64encode(data).decode()},
            {"path": ["deep", "list", 1], "encoding": "base64", "data": "AQI="},
        ]
        script = """export default { render({ model, el }) {
          const [a, b] = [model.get('a'), model.get('deep').list[1]];
          el.textContent = [a instanceof DataView, a.byteLength, a.getUint8(200), b.getUint8(1),
            model.get('deep').list[0], model.get('in_page')].join(' ');
        } }"""
        visit = page_of({"w": entry(script, buffers=buffers, a=None, deep={"list": [7, None]})})
        assert visit.page.locator("figure").inner_text() == "true 256 200 2 7 true"

    def test_a_module_may_be_made_by_a_function_and_may_initialise(self, page_of):
        script = """export default async () => ({
          async initialize({ model }) { model.set('x', 'set'); },
          render({ model, el }) { el.textContent = model.get('x'); } })"""
        assert page_of({"a": entry(script)}).page.locator("figure").inner_text() == "set"

    def test_nothing_is_loaded_before_it_comes_near(self, page_of):
        far = '<div style="height: 4000px"></div>'
        visit = page_of({n: entry(name=n, count=0) for n in "ab"}, between=far)
        assert visit.page.get_by_role("button").count() == 1
        assert visit.page.locator("img").count() == 1
        visit.page.locator("figure").nth(1).scroll_into_view_if_needed()
        visit.page.get_by_role("button", name="b 0").wait_for()

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ("export default { render() { throw new Error('no luck') } }", "no luck"),
            ("this is no script", "Unexpected identifier"),
            ("export const x = 1", "undefined"),
            ("widgets/none.js", "none.js"),
        ],
    )
    def test_a_widget_that_fails_says_why_keeps_its_picture_and_leaves_the_others(
        self, page_of, script, reason
    ):
        visit = page_of({"bad": entry(script), "good": entry(name="good", count=1)})
        bad, good = visit.page.locator("figure").all()
        assert "could not be started" in bad.inner_text()
        assert reason in bad.inner_text()
        assert bad.locator("img").is_visible()
        good.get_by_role("button").click()
        assert good.inner_text() == "good 2"

    def test_a_missing_file_of_frames_is_named(self, page_of):
        buffers = [{"path": ["sheet"], "encoding": "url", "data": "widgets/gone.bin"}]
        visit = page_of({"a": entry(buffers=buffers, name="a", count=0, sheet=None)})
        text = visit.page.locator("figure").inner_text()
        assert "the file widgets/gone.bin is missing (status 404)" in text

    @pytest.mark.parametrize("secure", [True, False])
    def test_a_damaged_file_of_frames_is_named_and_tried_again(self, page_of, tmp_path, secure):
        content = bytes(range(256)) * 40
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.bin"
        (tmp_path / "_static" / "widgets" / name).write_bytes(content[:-1] + b"x")
        script = """export default { render({ model, el }) {
          el.textContent = `${model.get('sheet').byteLength} bytes` } }"""
        buffers = [{"path": ["sheet"], "encoding": "url", "data": f"widgets/{name}"}]
        visit = page_of({"a": entry(script, buffers=buffers, sheet=None)}, secure=secure)
        figure = visit.page.locator("figure")
        assert f"the file widgets/{name} is damaged" in figure.inner_text()
        assert figure.locator("img").is_visible()
        (tmp_path / "_static" / "widgets" / name).write_bytes(content)
        figure.get_by_role("button", name="Try again").click()
        visit.page.get_by_text("10240 bytes").wait_for()
        assert figure.locator("img, button").count() == 0

    def test_a_script_that_did_not_come_is_tried_again(self, page_of, tmp_path):
        visit = page_of({"a": entry("widgets/late.js", name="late", count=3)})
        figure = visit.page.locator("figure")
        assert "the file widgets/late.js is missing (status 404)" in figure.inner_text()
        (tmp_path / "_static" / "widgets" / "late.js").write_text(COUNTER)
        figure.get_by_role("button", name="Try again").click()
        figure.get_by_role("button", name="late 3").wait_for()

    @pytest.mark.parametrize(
        "path",
        [
            ["__proto__", "polluted"],
            ["constructor", "prototype", "polluted"],
            ["deep", "__proto__", "polluted"],
            ["deep", "list", "constructor", "polluted"],
            ["deep", "list", "__proto__"],
            ["__proto__"],
            ["deep", "constructor"],
            ["text", "polluted"],
            ["nowhere", "polluted"],
            [],
        ],
        ids=str,
    )
    def test_a_path_from_outside_reaches_nothing_but_the_state(self, page_of, path):
        buffers = [{"path": path, "encoding": "base64", "data": "AQI="}]
        state = entry(name="a", count=0, deep={"list": [1]}, text="abc", buffers=buffers)
        visit = page_of({"a": state, "good": entry(name="good", count=0)})
        text = visit.page.locator("figure").first.inner_text()
        assert f"no place for the binary data of {'.'.join(path)}" in text
        found = visit.page.evaluate(
            "[({}).polluted, [].polluted, ''.polluted, Object.polluted, Array.polluted]"
        )
        assert found == [None] * 5
        visit.page.get_by_role("button", name="good 0").click()

    def test_no_name_of_a_widget_or_of_a_value_is_special(self, page_of):
        script = """export default { render({ model, el }) { el.textContent =
          [model.get('constructor'), model.get('__proto__'), model.get('x')].join(' ') } }"""
        raw = json.dumps({"state": {"__proto__": {"state": {"_esm": script, "x": 5}}}})
        visit = page_of({"__proto__": None}, raw=raw)
        assert visit.page.locator("figure").inner_text().strip() == "5"

    def test_a_widget_that_needs_a_kernel_stays_a_picture(self, page_of):
        visit = page_of({"a": entry(name="a", count=0)}, alone="false")
        assert visit.page.locator("figure").inner_text() == "Still."
        assert visit.page.get_by_role("button").count() == 0

    def test_a_page_whose_state_is_broken_keeps_its_pictures(self, page_of):
        visit = page_of({"a": entry()}, raw='{"state": {')
        assert visit.page.locator("figure").inner_text() == "Still."
        assert visit.errors == []


@pytest.mark.skipif(not ENGINE_READY, reason="onnxruntime-web is not installed (needs npm)")
def test_the_digests_of_the_engine_are_those_of_its_files():
    found = {
        name: hashlib.sha256((ENGINE / name).read_bytes()).hexdigest() for name in ENGINE_FILES
    }
    assert found == ENGINE_FILES


@pytest.mark.skipif(not ENGINE_READY, reason="onnxruntime-web is not installed (needs npm)")
class TestModels:
    @pytest.fixture
    def spoiled(self, tmp_path, visit, digits):
        """Opens a page whose files were changed: ``spoiled(lambda static: ...)``."""
        with served(tmp_path) as address:

            def open_page(spoil, *widgets):
                widgets = widgets or (LatentExplorer.plane(digits.decode_mean),)
                page = write_page(tmp_path, *widgets)
                spoil(tmp_path / "_static")
                visit.page.goto(f"{address}/{page.name}")
                return visit

            yield open_page

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda file: file.unlink(), "is missing (status 404)"),
            (lambda file: file.write_bytes(file.read_bytes()[:5000]), "is damaged"),
            (lambda file: file.write_bytes(b"\0" * 700_000), "is damaged"),
        ],
        ids=["missing", "truncated", "zeros"],
    )
    def test_a_model_that_is_missing_or_corrupt(self, spoiled, spoil, reason):
        visit = spoiled(lambda static: spoil(next(static.glob("widgets/*.onnx"))))
        status = visit.page.locator(".gdm-status.gdm-fault")
        status.wait_for()
        assert reason in status.inner_text()
        assert visit.page.locator(".gdm-still").is_visible()
        assert visit.page.locator("#after").inner_text() == "After"

    def test_a_file_that_is_no_model_is_said_even_if_its_name_holds_no_hash(self, spoiled):
        def spoil(static):
            page = static.parent / "page.html"
            file = next(static.glob("widgets/*.onnx"))
            (static / "widgets" / "plain.onnx").write_bytes(b"not a model")
            page.write_text(page.read_text().replace(file.name, "plain.onnx"))

        status = spoiled(spoil).page.locator(".gdm-status.gdm-fault")
        status.wait_for()
        assert "the model in widgets/plain.onnx can't be read" in status.inner_text()

    def test_an_engine_that_is_missing(self, spoiled):
        kept = {}

        def spoil(static):
            file = static / "onnxruntime" / "ort.wasm.min.mjs"
            kept[file] = file.read_bytes()
            file.unlink()

        page = spoiled(spoil).page
        page.locator(".gdm-status.gdm-fault").wait_for()
        assert (
            "the engine for models could not be loaded" in page.locator(".gdm-status").inner_text()
        )

    @pytest.mark.parametrize(
        ("name", "how"),
        [
            *((name, "aborted") for name in (*ENGINE_FILES, "*.onnx")),
            ("*.wasm", "missing"),
            ("*.wasm", "truncated"),
            ("*.onnx", "truncated"),
        ],
    )
    def test_one_failed_fetch_is_said_and_tried_again(self, spoiled, visit, name, how):
        def fail(route):
            if how == "aborted":
                route.abort()
            elif how == "missing":
                route.fulfill(status=404)
            else:
                content = route.fetch().body()
                route.fulfill(body=content[: len(content) // 2], headers={"Cache-Control": "none"})

        visit.page.route(f"**/{name}", fail)
        page = spoiled(lambda static: None).page
        status = page.locator(".gdm-status.gdm-fault")
        status.wait_for()
        said = {"aborted": "could not be fetched", "missing": "is missing (status 404)"}
        assert said.get(how, "is damaged") in status.inner_text()
        assert name.removeprefix("*") in status.inner_text()
        # In vain once more, then not.
        status.get_by_role("button", name="Try again").click()
        status.wait_for()
        visit.page.unroute(f"**/{name}", fail)
        status.get_by_role("button", name="Try again").click()
        page.locator("[data-gdm-pictures]").wait_for()
        root = page.locator(".gdm")
        settle(page, root)
        assert page.get_by_role("button", name="Try again").count() == 0
        before = pictures(root)
        root.get_by_label("z₁", exact=True).press("End")
        wait_for_change(page, root, before, "End")

    def test_an_engine_from_the_network_runs_under_the_policy_and_is_held_to_its_digests(
        self, spoiled, visit
    ):
        engine = ENGINE_ON_CDN.format(version="1.2.3")
        bad = []

        def answer(route):
            name = route.request.url.rpartition("/")[2]
            body = (ENGINE / name).read_bytes()
            if name in bad:
                body += b" "
            route.fulfill(body=body, headers={"Access-Control-Allow-Origin": "*"})

        def spoil(static):
            page = static.parent / "page.html"
            text = page.read_text().replace('runtime="onnxruntime/"', f'runtime="{engine}"')
            page.write_text(finish_page(text, engine))
            shutil.rmtree(static / "onnxruntime")

        visit.page.route(f"{engine}*", answer)
        page = spoiled(spoil).page
        page.locator("[data-gdm-pictures]").wait_for()
        assert visit.errors == []
        for name in ENGINE_FILES:
            bad[:] = [name]
            page.reload()
            status = page.locator(".gdm-status.gdm-fault")
            status.wait_for()
            assert f"{engine}{name} is damaged" in status.inner_text()

    def test_the_next_move_tries_again_by_itself(self, spoiled, visit):
        wasm = "**/ort-wasm-simd-threaded.wasm"
        visit.page.route(wasm, lambda route: route.abort())
        page = spoiled(lambda static: None).page
        page.locator(".gdm-status.gdm-fault").wait_for()
        visit.page.unroute(wasm)
        page.get_by_label("z₁", exact=True).press("End")
        page.locator("[data-gdm-pictures]").wait_for()
        assert page.locator(".gdm-fault").count() == 0

    def test_files_are_held_to_their_digests_over_http_too(self, spoiled, visit):
        visit.page.add_init_script(NO_SUBTLE)
        fine = spoiled(lambda static: None).page
        fine.locator("[data-gdm-pictures]").wait_for()
        for pattern in ("*.onnx", "*.wasm"):

            def spoil(static, pattern=pattern):
                file = next(static.rglob(pattern))
                content = bytearray(file.read_bytes())
                content[len(content) // 2] ^= 1
                file.write_bytes(content)

            status = spoiled(spoil).page.locator(".gdm-status.gdm-fault")
            status.wait_for()
            assert "is damaged" in status.inner_text()

    def test_the_digest_without_the_browsers_help_is_sha_256(self, spoiled, visit):
        page = spoiled(lambda static: None).page
        lengths = [0, 1, 3, 55, 56, 57, 63, 64, 65, 119, 120, 128, 1000, 65_537]
        found = page.evaluate(
            f"""async (lengths) => {{ {NO_SUBTLE};
              const {{ sha256 }} = await import('./_static/widgets/host.js');
              return Promise.all(lengths.map((n) =>
                sha256(Uint8Array.from({{ length: n }}, (_, i) => (7 * i + n) % 256).buffer)));
              }}""",
            lengths,
        )
        contents = [bytes((7 * i + n) % 256 for i in range(n)) for n in lengths]
        assert found == [hashlib.sha256(content).hexdigest() for content in contents]

    def test_loading_is_said_and_a_model_is_fetched_once_for_two_widgets(
        self, spoiled, digits, visit
    ):
        asked, said = [], []
        visit.page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        visit.page.expose_function("said", lambda text: said.append(text))
        visit.page.add_init_script(
            "new MutationObserver(() => { const s = document.querySelector('.gdm-status[role]');"
            " if (s?.textContent) said(s.textContent) })"
            ".observe(document, {subtree: true, childList: true, characterData: true})"
        )
        two = [LatentExplorer.plane(digits.decode_mean, start=(x, 1.0)) for x in (-2.0, 2.0)]
        page = spoiled(lambda static: None, *two).page
        page.wait_for_function("document.querySelectorAll('[data-gdm-pictures]').length == 2")
        assert "Loading the model …" in said
        assert sum(name.endswith(".onnx") for name in asked) == 1
        assert asked.count("ort-wasm-simd-threaded.wasm") == 1
        one, other = page.locator(".gdm").all()
        settle(page, one)
        before, neighbour = pictures(one), settle(page, other)
        assert before != neighbour
        one.get_by_label("z₁", exact=True).press("End")
        wait_for_change(page, one, before, "End")
        assert settle(page, other) == neighbour
        assert visit.errors == []

    def test_many_questions_to_two_models_at_once_are_each_answered_rightly(self, spoiled, digits):
        torch.manual_seed(0)
        layers = [nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 784), nn.Sigmoid()]
        other = nn.Sequential(*layers, nn.Unflatten(1, (1, 28, 28))).eval()
        decoders = [digits.decode_mean, other]
        planes = [
            LatentExplorer.plane(digits.decode_mean),
            LatentExplorer.plane(other, page_model=export(other, (2,))),
        ]
        page = spoiled(lambda static: None, *planes).page
        page.wait_for_function("document.querySelectorAll('[data-gdm-pictures]').length == 2")
        told = page.evaluate(
            """async () => {
              const host = await import('./_static/widgets/host.js');
              const figures = [...document.querySelectorAll('[data-gdm-widget]')];
              const stored = host.storedState(), answers = {};
              const entries = figures.map((figure) => stored[figure.dataset.gdmWidget]);
              const models = await Promise.all(entries.map((entry) => host.revivedModel(entry)));
              await new Promise((done, fail) => models.forEach((model, m) => {
                setTimeout(() => fail(new Error('only ' + Object.keys(answers))), 30000);
                model.on('msg:custom', (content, buffers) => {
                  if (content.kind === 'wait') return;
                  if (content.kind === 'failed') return fail(new Error(content.reason));
                  answers[`${m} ${content.id}`] = [...new Float32Array(buffers[0])].slice(300, 330);
                  if (Object.keys(answers).length === 40) done();
                });
                for (let id = 0; id < 20; id++)
                  model.send({ kind: 'ask', id, name: 'decode', shapes: [[1, 2]] }, undefined,
                    [Float32Array.from([id / 10, m]).buffer]);
              }));
              return answers;
            }"""
        )
        assert len(told) == 40
        for name, values in told.items():
            m, ident = map(int, name.split())
            with torch.no_grad():
                expected = decoders[m](torch.tensor([[ident / 10, m]])).flatten()[300:330]
            assert values == pytest.approx(expected.tolist(), abs=1e-5)
