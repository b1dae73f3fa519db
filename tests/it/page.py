"""The page of the admin listener in Chromium. `page.py CASE ADMIN [ARGUMENT…]` prints a line of JSON
for each thing that it has seen to be so, and fails at the first that is not."""

import json
import pathlib
import re
import shutil
import sys
import tempfile
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

PATIENCE_MS = 30_000
TOP = pathlib.Path(__file__).resolve().parents[2]
# Of today for as long as the test runs, and the same each time that it comes.
NOW_MS = int(time.time() * 1000)
PICTURES = TOP / "target" / "page"

# Instead of what the listener streams, the test says what comes: `feed.push(kind, value)`.
SCRIPTED = """
const real = window.fetch;
let controller;
const feed = { cut() { controller.close(); }, push(kind, value) {
  controller.enqueue(new TextEncoder().encode(`event: ${kind}\\ndata: ${JSON.stringify(value)}\\n\\n`));
} };
window.feed = feed;
feed.opened = 0;
feed.open = 0;
window.fetch = (url, options) => {
  if (!String(url).endsWith("api/events") || window.feedIsGone) {
    return real(url, options);
  }
  feed.opened += 1;
  feed.open += 1;
  let mine;
  options.signal.addEventListener("abort", () => {
    feed.open -= 1;
    try {
      mine.error(new DOMException("", "AbortError"));
    } catch {
      // It had ended.
    }
  });
  return Promise.resolve(new Response(new ReadableStream({ start(c) { mine = controller = c; feed.there = true; } })));
};
feed.look = (seen) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => !seen });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""


class Page:
    """A page at `url`, with all that the console says."""

    def __init__(self, browser, url, scheme="light", width=1280, scripted=False, lenient=False):
        self.url = url
        self.said = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            bypass_csp=lenient,
        )
        self.context.set_default_timeout(PATIENCE_MS)
        if scripted:
            self.context.add_init_script(SCRIPTED)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.goto(url)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def expect(self, selector, pattern):
        expect(self.page.locator(selector).first).to_have_text(re.compile(pattern), timeout=PATIENCE_MS)

    def until(self, wanted):
        """Until that is so. `wait_for_function` looks from within, where the page's policy forbids it."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(wanted):
            assert time.monotonic() < end, f"not within {PATIENCE_MS} ms: {wanted}"
            self.page.wait_for_timeout(20)

    def push(self, kind, *values):
        self.until("Boolean(window.feed && window.feed.there)")
        for value in values:
            self.page.evaluate("([kind, value]) => window.feed.push(kind, value)", [kind, value])

    def picture(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        # The whole page at once, without what stays on top of it.
        height = self.page.evaluate("document.documentElement.scrollHeight")
        width = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": width, "height": min(height, 6000)})
        self.page.screenshot(path=PICTURES / f"{name}.png")
        self.page.set_viewport_size({"width": width, "height": 900})

    def fits(self):
        width, there = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= there, f"{width} pixels wide, where {there} are there"

    def close(self, allowed=()):
        bad = [line for line in self.said if not any(re.search(one, line) for one in allowed)]
        assert bad == [], bad
        self.context.close()


def ok(what):
    print(json.dumps({"ok": what}), flush=True)


def card(page, name):
    return page.locator("#credentials-list > li").filter(
        has=page.locator("h3", has_text=re.compile(f"^{name}$"))
    )


def accessible(page, what):
    """No violation of WCAG 2.2 AA that axe-core finds."""
    options = {
        "resultTypes": ["violations"],
        "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
    found = Axe().run(page.page, options=options).response
    passed = len(found["passes"])
    told = [
        f"{one['impact']} {one['id']}: {one['help']} "
        + "; ".join(str(node["target"]) + " " + node.get("failureSummary", "") for node in one["nodes"][:3])
        for one in found["violations"]
    ]
    assert told == [], "\n".join(told)
    assert passed > 20, passed
    ok(f"axe finds nothing: {what}")


def states(browser, admin, proxy):
    """Each state, as the running program is in it."""
    page = Page(browser, admin)
    page.expect("#verdict-title", r"^2 of 6 credentials are in trouble: wrong, gone$")
    page.expect("#verdict-more", "^wrong: the token endpoint refused the login: it answered 401 Unauthorized")
    assert page.title().startswith("✕ "), page.title()
    for name, state in [
        ("plant", "fresh"), ("wrong", "refused"), ("gone", "failing"),
        ("slow", "renewing"), ("lazy", "waiting"), ("key", "fresh"),
    ]:
        expect(card(page, name).locator("[data-part=state]").first).to_have_text(state)
    ok("each state is shown in words")
    order = page.locator("#credentials-list h3").all_text_contents()
    assert order[:2] == ["wrong", "gone"] and order[2:] == ["key", "lazy", "plant", "slow"], order
    ok("those in trouble come first")
    wrong, gone, plant = card(page, "wrong"), card(page, "gone"), card(page, "plant")
    expect(wrong.locator(".trouble")).to_contain_text("refused the login: it answered 401 Unauthorized")
    expect(wrong.locator(".trouble")).to_contain_text("answered with an error until a login succeeds")
    expect(wrong.locator(".trouble")).to_contain_text("Look at: configuration")
    expect(wrong).to_contain_text("Next attempt")
    expect(gone.locator(".trouble")).to_contain_text("cannot be reached")
    expect(gone.locator(".trouble")).to_contain_text("Look at: network")
    ok("it says why, and what that means")
    label = plant.locator("svg.lifetime").get_attribute("aria-label")
    assert re.search(r"^(100|9\d(\.\d)?) % of the lifetime left; renewal when \d+(\.\d)? % are left$", label), label
    expect(plant.locator("[data-part=life-words]")).to_contain_text("of 1 d")
    expect(plant.locator("[data-part=life-words]")).to_contain_text("renewal in")
    expect(card(page, "key").locator("[data-part=life-words]")).to_have_text("does not end")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", plant.locator("time").first.get_attribute("title"))
    ok("the lifetime is drawn and told")
    page.expect("#link-text", "^live$")
    page.expect("#version", r"^\d+\.\d+\.\d+")
    page.picture("states-light")
    page.close()


def explained(browser, admin, canary):
    """What would be sent, with what is there now."""
    page = Page(browser, admin)
    page.expect("#link-text", "^live$")

    def ask(method, url, fields="", content=""):
        page.select_option("#explain-method", method)
        page.fill("#explain-url", url)
        page.fill("#explain-fields", fields)
        page.fill("#explain-content", content)
        page.locator("#explain-form button[type=submit]").click()
        return page.locator("#explain-answer")

    told = ask("POST", "/key/x?y=1", "X-Signature: forged\nAccept: text/plain", "some content")
    for words in ["POST /key/x?y=1", "HMAC-SHA256 over", "some content", "x-signature: ••••••••", "(masked, 64 bytes)", "Removed"]:
        expect(told).to_contain_text(words)
    expect(told.locator("dl > div").filter(has_text="Removed")).to_contain_text("x-signature")
    expect(told.locator("dl > div").filter(has_text=re.compile("^Set"))).to_contain_text("via: 1.1 countersign")
    expect(told).to_contain_text(re.compile(r"Sent as\s*POST http://127\.0\.0\.1:\d+/x\?y=1"))
    ok("a signature is explained part by part")
    page.locator("#explain").scroll_into_view_if_needed()
    page.picture("explain-light")
    told = ask("GET", "/plant/x")
    expect(told).to_contain_text("token: ••••••••")
    ok("a login's token is there, and masked")
    told = ask("GET", "/lazy/x")
    expect(told).to_contain_text("nobody has needed it yet")
    expect(told).to_contain_text("nothing, as long as a credential is missing")
    ok("what is missing is said to be")
    told = ask("GET", "/nowhere")
    expect(told).to_contain_text("404 No route")
    told = ask("GET", "no path")
    expect(told).to_contain_text("'no path' is neither a URL nor a path")
    ok("what would be refused is said to be")
    text = page.content()
    assert canary not in text
    page.close([r"status of 400"])


def login(browser, admin, token):
    """Where there is a token, it is asked for."""
    page = Page(browser, admin)
    expect(page.locator("#login")).to_be_visible()
    expect(page.locator("#all")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "token"
    page.picture("login-light")
    expect(page.locator("#login-wrong")).to_have_text("")
    page.fill("#token", "not this one")
    page.keyboard.press("Enter")
    page.expect("#login-wrong", "not the token")
    expect(page.locator("#all")).to_be_hidden()
    ok("a wrong token is said to be wrong")
    page.fill("#token", "nö ✓")
    page.keyboard.press("Enter")
    page.expect("#login-wrong", "cannot be a token")
    page.fill("#token", token)
    page.keyboard.press("Enter")
    page.expect("#verdict-title", "credentials")
    page.expect("#link-text", "^live$")
    expect(page.locator("#login")).to_be_hidden()
    ok("the right one opens the page")
    kept = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie, location.href]")
    assert kept[:3] == [0, 0, ""] and token not in kept[3], kept
    ok("nothing is kept outside of memory")
    page.reload()
    expect(page.locator("#login")).to_be_visible()
    page.close([r"status of 401"])


def keyboard(browser, admin):
    """Everything can be reached, in its order, and one sees where one is."""
    page = Page(browser, admin, scripted=True)
    page.push("status", trouble())
    page.push("request", *requests())
    expect(page.locator("#requests-body tr")).to_have_count(5)
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")]
          .filter((node) => node.checkVisibility() && node.tabIndex >= 0).length"""
    )
    assert wanted > 25, wanted
    page.evaluate("document.activeElement.blur()")
    reached, tops = [], []
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
              const node = document.activeElement;
              if (node === document.body) return null;
              const { outlineStyle, outlineWidth } = getComputedStyle(node);
              node.seen = node.seen ?? Math.random();
              const place = node.getBoundingClientRect();
              return { name: `${node.tagName} ${node.id} ${node.textContent.trim().slice(0, 30)}`, key: node.seen,
                outline: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2,
                y: place.top + scrollY, inside: place.bottom > 0 && place.top < innerHeight };
            }"""
        )
        if at is None:
            break
        assert at["outline"], f"one does not see that {at['name']} has the focus"
        assert at["inside"], f"{at['name']} is out of sight"
        reached.append(at["key"])
        tops.append(at)
    assert len(set(reached)) == wanted, (len(set(reached)), wanted, [one["name"] for one in tops])
    ok("the keyboard reaches everything, and leaves the page again")
    page.evaluate("document.activeElement.blur()")
    page.evaluate("scrollTo(0, 0)")
    page.close()

    page = Page(browser, admin, scripted=True)
    page.push("status", trouble())
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    ok("the link to the content leads there")
    # The focus stays where it is while things change.
    page.locator("#credentials-list button", has_text="Renew now").first.focus()
    held = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.push("status", fine(), trouble(), fine())
    page.expect("#verdict-title", "^All 3")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == held
    ok("the focus stays while the page changes")
    page.close()


def everywhere(browser, admin):
    """Light and dark, wide and narrow, with everything that there can be."""
    for scheme in ["light", "dark"]:
        for width in [1280, 375]:
            # axe-core makes functions from text, which the page's policy forbids.
            page = Page(browser, admin, scheme, width, scripted=True, lenient=True)
            for name, status in [("fine", fine()), ("trouble", trouble()), ("problems", problems())]:
                page.push("status", status)
                page.push("request", *requests())
                page.wait_for_selector("#requests-body tr")
                page.wait_for_timeout(50)
                page.fits()
                page.picture(f"{name}-{scheme}-{width}")
                accessible(page, f"{name}, {scheme}, {width} pixels")
            page.close()
    ok("no page is wider than its window")


def scripted(browser, admin):
    """What comes of what the listener says."""
    page = Page(browser, admin, scripted=True)
    page.push("status", fine())
    page.expect("#verdict-title", "^All 3 credentials are fresh$")
    assert page.title() == "All 3 credentials are fresh – countersign"
    expect(page.locator("#problems")).to_be_hidden()
    page.push("status", trouble())
    page.expect("#verdict-title", "^1 of 4 credentials is refused: plant$")
    page.expect("#verdict-others", "2 of 4 credentials are not well: crm, gateways")
    page.push("status", problems())
    page.expect("#verdict-title", "^The configuration file has problems; the one before still serves$")
    expect(page.locator("#problems")).to_contain_text("unknown key 'upsteam' (line 14, column 1)")
    expect(page.locator("#problems")).to_contain_text("did you mean 'upstream'?")
    expect(page.locator("#problems")).to_contain_text("configuration from before still serves")
    expect(page.locator("#problems pre").first).to_contain_text("countersign.toml:14:1")
    ok("a refused reload is told with its problems")
    page.push("status", fine())
    expect(page.locator("#problems")).to_be_hidden()
    routes = page.locator("#routes-body tr")
    expect(routes).to_have_count(2)
    expect(routes.first).to_contain_text("twinzo")
    expect(routes.first).to_contain_text("42")
    label = routes.first.locator("svg").get_attribute("aria-label")
    assert re.match(r"The last 10 minutes: [\d,]+ requests, at most \d+ in 10 seconds, 0 errors; p99 at most \d+ ms", label), label
    ok("routes are told with their history")
    bare = fine()
    for key in ["routes", "reload", "log", "upstreams"]:
        del bare[key]
    for one in bare["credentials"]:
        for key in ["usable", "issued_lifetime_s", "renew_in_s", "lifetime_left_share"]:
            one.pop(key, None)
    page.push("status", bare)
    expect(page.locator("#routes-none")).to_be_visible()
    page.expect("#verdict-title", "^All 3 credentials are fresh$")
    ok("what is not told is not missed")

    page.push("request", *requests())
    rows = page.locator("#requests-body tr")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("/crm/accounts/4711")
    spent = rows.last.locator("svg").get_attribute("aria-label")
    assert spent == "waiting 1.2 ms, signing 12 µs, upstream 85 ms, the rest 788 µs", spent
    for what, pick, count in [
        ("route", lambda: page.select_option("#filter-route", "crm"), 2),
        ("route and status", lambda: page.select_option("#filter-status", "5"), 0),
        ("status", lambda: page.select_option("#filter-route", ""), 1),
        ("nothing", lambda: [page.select_option(f"#filter-{one}", "") for one in ["route", "status"]], 5),
        ("whose", lambda: page.select_option("#filter-whose", "any"), 3),
        ("the API", lambda: page.select_option("#filter-whose", "upstream"), 1),
        ("all", lambda: page.select_option("#filter-whose", ""), 5),
        ("text", lambda: page.fill("#filter-text", "LINE-07"), 1),
        ("other text", lambda: page.fill("#filter-text", "nothing like it"), 0),
    ]:
        pick()
        expect(rows, what).to_have_count(count)
    page.expect("#requests-none", "None of the last 5 requests")
    page.fill("#filter-text", "")
    expect(rows).to_have_count(5)
    ok("filters choose")
    page.click("#requests-pause")
    page.expect("#link-text", "^paused$")
    later = {**requests()[0], "path": "/later", "seq": 99}
    page.evaluate("window.drawn = 0; new MutationObserver(() => { window.drawn += 1; })"
                  ".observe(document.querySelector('#requests-body'), { childList: true, subtree: true, characterData: true })")
    # What comes again after the connection was lost is nothing new.
    page.push("request", later, later, *requests())
    page.expect("#requests-note", "^Paused, 1 newer request ")
    assert page.evaluate("window.drawn") == 0
    expect(rows).to_have_count(5)
    page.click("#requests-pause")
    expect(rows).to_have_count(6)
    expect(rows.first).to_contain_text("/later")
    ok("it can be paused, and nothing is lost")
    # After a new start of the program it counts from the start again.
    page.push("request", {**later, "at_ms": later["at_ms"] + 5, "path": "/another"}, later)
    expect(rows).to_have_count(7)
    expect(rows.first.locator("time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\.\d{3}$"))
    page.push("request", {**requests()[0], "at_ms": 1_700_000_000_123, "seq": 100})
    expect(rows.first.locator("time")).to_have_text(re.compile(r"^2023-11-1\d \d\d:\d\d:\d\d\.123$"))
    ok("what comes twice is there once, and another day is said")
    page.push("missed", {"requests": 12})
    page.expect("#requests-note", "12 came faster")
    page.evaluate(
        "(one) => { for (let i = 0; i < 300; i += 1) window.feed.push('request', { ...one, path: `/many/${i}` }); }",
        {**requests()[0], "seq": None},
    )
    page.expect("#requests-body tr", "/many/299")
    expect(rows).to_have_count(200)
    ok("no more than 200 are kept")
    hostile = {**requests()[0], "seq": 101, "path": "/<img src=x onerror=alert(1)>", "identity": "<b>x</b>", "reason": "</td><script>"}
    page.push("request", hostile)
    expect(rows.first).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#requests-body img, #requests-body b, #requests-body script").count() == 0
    ok("what callers send is text")
    page.evaluate("window.feedIsGone = true")
    page.route("**/api/events", lambda route: route.abort())
    page.evaluate("window.feed.cut()")
    page.expect("#link-text", "^reconnecting…$")
    page.expect("#verdict-title", "^No answer from countersign$")
    page.expect("#verdict-more", r"^What is below is .* old")
    live = page.locator("#verdict-live")
    expect(live).to_have_text(re.compile("^No answer from countersign"))
    spoken = live.text_content()
    # The age goes on, without being read out each time.
    page.evaluate("window.age = document.querySelector('#verdict-more').textContent")
    page.until("document.querySelector('#verdict-more').textContent !== window.age")
    assert live.text_content() == spoken
    page.picture("lost-light")
    ok("a lost connection is not called well")
    page.unroute("**/api/events")
    page.expect("#link-text", "^live$")
    page.expect("#verdict-title", "credential")
    ok("it comes back by itself")
    page.close([r"ERR_FAILED"])


def sentences(browser, admin):
    """The first sentence is true of what is there, and by the worst of it."""
    page = Page(browser, admin, scripted=True)
    title, state = "#verdict-title", "#verdict"

    def told(status, wanted, shown, detail="", never="^never$"):
        page.push("status", status)
        page.expect(title, wanted)
        expect(page.locator(state)).to_have_attribute("data-state", shown)
        said = page.locator(".verdict-words").inner_text()
        assert re.search(detail, said), said
        assert not re.search(never, said), said
        mark = {"refused": "✕ ", "failing": "! "}.get(shown, "")
        assert page.title() == f"{mark}{page.locator(title).text_content()} – countersign", page.title()

    told(fleet(failing=10), "^10 of 10 devices fail to log in: gateways$", "refused", "10 devices fail", "go on|some")
    told(fleet(refused=4, failing=6), "^10 of 10 devices fail to log in or are refused: gateways$", "refused", "", "go on")
    told(fleet(refused=1, idle=9), "^1 of 10 devices is refused: gateways$", "failing", "9 other devices are idle", "go on")
    expect(card(page, "gateways")).to_have_attribute("data-state", "failing")
    told(fleet(refused=1, fresh=9_999), "^The only credential is fresh$", "fresh")
    expect(card(page, "gateways")).to_have_attribute("data-state", "fresh")
    expect(card(page, "gateways").locator("[data-part=counts]")).to_have_text("10,000: 1 refused, 9,999 fresh")
    told(fleet(refused=10, fresh=90), "^10 of 100 devices are refused: gateways$", "failing", "All other devices go on")
    told(fleet(refused=10, fresh=80, idle=10), "^10 of 100 ", "failing", "80 other devices go on, 10 are idle")
    gated = fleet(fresh=3, failing=7)
    gated["credentials"][0]["devices"]["gate"] = {"closed_for_s": 41.5, "error": "429 Too Many Requests"}
    told(gated, "^The login gate of gateways is closed: 3 of 10 devices have a usable token$", "failing", "those with a usable token go on")
    ok("what is said of a fleet is so")

    refused = fine()
    refused["routes"][0].update(refused=300, refused_share=1.0, credentials=["key"])
    told(refused, r"^The API refuses requests of route twinzo signed with key \(100 % of the last minute: 401/403\)$", "refused", "All 3 credentials are fresh")
    cell = page.locator("#routes-body tr").first.locator("[data-part=refused]")
    expect(cell).to_have_text("▲ 100 %")
    expect(cell).to_have_attribute("title", "300 of 91,233 since the start")
    refused["routes"][0].update(refused_share=0.06)
    told(refused, r"\(6 % of the last minute: 401/403\)$", "failing")
    refused["routes"][0].update(refused_share=0.04)
    told(refused, "^All 3 credentials are fresh$", "fresh")
    ok("an API that refuses is told of")

    all_of_it = trouble()
    all_of_it["reload"] = problems()["reload"]
    all_of_it["routes"][0]["error_share"] = 0.3
    told(all_of_it, "^1 of 4 credentials is refused: plant$", "refused", "")
    said = page.locator("#verdict-others").inner_text()
    for part in [
        "2 of 4 credentials are not well: crm, gateways", "configuration file has problems",
        "Requests fail on route twinzo (30 % of the last minute)", "API refuses requests of route key signed with alerts",
        "Not ready, /readyz answers 503: no usable credential: plant", "No route is there for 0.4 requests per second",
    ]:
        assert part in said, (part, said)
    nothing_fetched = {**problems(), "credentials": []}
    told(nothing_fetched, "^The configuration file has problems", "failing", "No credentials are configured", "Credentials are well")
    ok("one trouble does not hide the others")

    told({**fine(), "ready": False, "not_ready_because": "stopping"}, "^countersign is stopping", "failing")
    stale = {**fine(), "ready": False, "not_ready_because": "not kept fresh at the moment: plant"}
    told(stale, "^Not ready, /readyz answers 503: not kept fresh at the moment: plant$", "failing")
    ok("what is not ready is told")
    page.close()


def many(browser, admin):
    """Two hundred routes: those in trouble and those with traffic are found."""
    for width in [1280, 375]:
        page = Page(browser, admin, width=width, scripted=True)
        idle = {"rate_per_s": 0.0, "in_flight": 0, "error_share": None, "refused_share": None, "history": []}
        status = fine()
        status["routes"] = [route(f"quiet-{at:03}", 0, **idle) for at in range(185)]
        status["routes"] += [route(f"busy-{at:02}", 9, rate_per_s=float(at + 1)) for at in range(14)]
        status["routes"].append(route("broken", 9, rate_per_s=0.2, error_share=0.5))
        status["unrouted"] = {**status["unrouted"], "requests": 71, "rate_per_s": 3.0, "error_share": 1.0}
        page.push("status", status)
        rows = page.locator("#routes-body tr")
        expect(rows).to_have_count(16)
        names = [one.strip() for one in rows.locator(".name").all_text_contents()]
        assert names == ["broken", *[f"busy-{at:02}" for at in range(13, -1, -1)], "no route"], names
        expect(page.locator("#routes-quiet summary")).to_have_text("185 quiet routes")
        expect(page.locator("#rate")).to_have_text("108")
        box = page.locator("#requests").bounding_box()
        assert box["y"] < 2_500, box
        page.fits()
        page.picture(f"many-{width}")
        # A little more is no reason for another order.
        for one in status["routes"]:
            one["rate_per_s"] *= 1.4 if one["name"] == "busy-08" else 1.0
        # What is not told again is as it was.
        drawn = rows.first.locator("svg").get_attribute("aria-label")
        for one in status["routes"]:
            del one["history"]
        page.push("status", status)
        page.expect("#rate", "^112$")
        assert [one.strip() for one in rows.locator(".name").all_text_contents()] == names
        assert rows.first.locator("svg").get_attribute("aria-label") == drawn and "requests" in drawn
        page.fill("#routes-text", "quiet-017")
        expect(rows).to_have_count(1)
        expect(page.locator("#routes-quiet")).to_be_hidden()
        page.fill("#routes-text", "nothing like it")
        page.expect("#routes-none", "None of 200 routes fits")
        page.fill("#routes-text", "")
        page.locator("#routes-quiet summary").click()
        expect(page.locator("#routes-quiet-body tr")).to_have_count(185)
        page.fits()
        page.close()
        ok(f"many routes at {width} pixels")


def unseen(browser, admin):
    """A page that nobody sees holds no connection, and goes on when it is seen."""
    page = Page(browser, admin, scripted=True)
    page.push("status", fine())
    page.push("request", *requests())
    page.expect("#link-text", "^live$")
    page.evaluate("window.feed.look(false)")
    page.expect("#link-text", "^paused while hidden$")
    page.until("window.feed.open === 0")
    assert page.title() == "Paused while hidden – countersign"
    page.evaluate("window.feed.look(true)")
    page.until("window.feed.open === 1")
    page.push("status", fine())
    page.push("request", *requests())
    page.expect("#link-text", "^live$")
    page.expect("#requests-note", "some may be missing from .* while this page was hidden")
    expect(page.locator("#requests-body tr")).to_have_count(5)
    assert page.title() == "All 3 credentials are fresh – countersign"
    # However often.
    page.evaluate("for (let i = 0; i < 9; i += 1) { window.feed.look(false); window.feed.look(true); }")
    page.until("window.feed.open === 1")
    assert page.evaluate("window.feed.opened") == 11
    ok("a page that nobody sees holds no connection")
    page.close()


def broken(browser, admin):
    """Where showing fails, the page says so, and the rest goes on."""
    page = Page(browser, admin, scripted=True)
    page.push("status", fine())
    expect(page.locator("#broken")).to_be_hidden()
    page.push("status", {**fine(), "uptime_s": 7200.0, "routes": "none"})
    page.expect("#broken", "^This page failed at .*the routes")
    page.expect("#version", "^0.1.0$")
    page.push("status", fine())
    expect(page.locator("#broken")).to_be_hidden()
    for at_ms in [None, "soon", 1e300, -1e300]:
        page.push("request", {**requests()[0], "at_ms": at_ms, "seq": None})
    expect(page.locator("#requests-body tr")).to_have_count(4)
    odd = fine()
    odd["credentials"][0].update(next_attempt_in_s=1e300, last_renewal={"ago_s": 1e300, "took_s": 0.1})
    page.push("status", {**odd, "version": "0.1.1"})
    page.expect("#version", "^0.1.1$")
    expect(page.locator("#broken")).to_be_hidden()
    page.evaluate("window.feed.push('request', null)")
    page.expect("#broken", "event request")
    page.push("request", requests()[0])
    expect(page.locator("#broken")).to_be_hidden()
    page.expect("#link-text", "^live$")
    ok("where it fails, the page says so and goes on")
    page.close(["TypeError"])


def bare(browser, admin):
    """Without JavaScript it says what to use instead."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(admin)
    expect(page.locator("noscript section, main section").first).to_contain_text("countersign status")
    expect(page.locator("#all")).to_be_hidden()
    ok("without JavaScript it says what to use instead")
    context.close()


def live(browser, admin, proxy):
    """A request through the proxy appears by itself."""
    page = Page(browser, admin)
    page.expect("#link-text", "^live$")
    page.request.get(f"{proxy}/plant/seen?secret=canary-query")
    row = page.locator("#requests-body tr").filter(has_text="/plant/seen")
    expect(row).to_have_count(1)
    assert "canary" not in page.content()
    ok("a request appears, without its query")
    page.close()


def renew(browser, admin):
    """The button renews."""
    page = Page(browser, admin)
    one = card(page, "plant")
    one.get_by_role("button", name="Renew plant now").click()
    expect(one.locator("[data-part=said]")).to_have_text(re.compile("^Renewed in "))
    expect(one.locator("[data-part=last]")).to_have_text(re.compile(r"^(\d ms|[0-9.]+ (ms|s)) ago$"))
    ok("a press of the button renews")
    other = browser.new_context().new_page()
    other.goto("data:text/html,<p>elsewhere</p>")
    got = other.evaluate(
        """(url) => fetch(url, { method: "POST", mode: "no-cors" }).then(() => "sent", (error) => String(error))""",
        f"{admin}api/credentials/plant/refresh",
    )
    print(json.dumps({"elsewhere": got}))
    page.close()


def reloaded(browser, admin, path):
    """A file that has become bad is told of, and the page goes on."""
    page = Page(browser, admin)
    page.expect("#link-text", "^live$")
    file = pathlib.Path(path)
    good = file.read_text()
    file.write_text(good + "\n[nonsense]\n")
    page.click("#reload")
    page.expect("#reload-said", "^Refused: ")
    expect(page.locator("#problems")).to_contain_text("nonsense")
    page.picture("reload-light")
    ok("a bad file is told of")
    file.write_text(good)
    page.click("#reload")
    page.expect("#reload-said", "as it was|Taken over")
    expect(page.locator("#problems")).to_be_hidden()
    ok("a mended one is taken")
    page.close([r"status of 422"])


# What the listener could say.


def credential(name, **more):
    return {
        "name": name, "kind": "twinzo-device", "source": "login", "state": "fresh", "usable": True,
        "expires_in_s": 2520.4, "issued_lifetime_s": 3600, "lifetime_left_share": 0.7,
        "renew_in_s": 2100.0, "next_attempt_in_s": 2100.0, "failures": 0, "error": None,
        "error_word": None, "last_renewal": {"ago_s": 1080.2, "took_s": 0.083},
        "clock_skew_s": 0.0, "replays": 0, "trouble": None, **more,
    }


NONE = {
    "expires_in_s": None, "issued_lifetime_s": None, "lifetime_left_share": None,
    "renew_in_s": None, "next_attempt_in_s": None,
}


def route(name, requests, errors=0, **more):
    history = [
        {"at_s": at * 10, "requests": requests + at % 7, "errors": errors if 40 < at < 48 else 0,
         "p50_ms": 9.0, "p99_ms": 40.0 + at % 9}
        for at in range(60)
    ]
    return {
        "name": name, "host": None, "path": f"/{name}", "upstream": f"https://{name}.example.com/v3",
        "methods": [], "credentials": ["plant"], "identity": None, "in_flight": 2, "requests": 91233,
        "errors": 12, "refused": 3, "refused_share": 0.0, "rate_per_s": 42.3, "error_share": 0.031 if errors else 0.0, "p50_ms": 9.2,
        "p99_ms": 84.0, "history": history, **more,
    }


def fine():
    fixed = credential("alerts", kind="devo-token", source="fixed", **{**NONE, "last_renewal": None})
    idle = {"rate_per_s": 0.0, "in_flight": 0, "error_share": None, "refused_share": None, "p50_ms": None, "p99_ms": None, "history": []}
    quiet = route("crm", 0, methods=["GET", "POST"], host="crm.example.com", credentials=["crm"], identity="X-Device", **{**idle})
    return {
        "version": "0.1.0", "ready": True, "not_ready_because": None, "uptime_s": 93784.2, "in_flight": 3, "upstreams": [], "log": None,
        "reload": {"at_s": time.time(), "ago_s": 620.0, "cause": "signal", "outcome": "taken", "changes": ["route crm: added"], "problems": []},
        "credentials": [credential("plant"), fixed, credential("crm", kind="oauth2", source="oauth", clock_skew_s=-42.5, replays=3)],
        "routes": [route("twinzo", 420), quiet],
        "unrouted": {"in_flight": 0, "requests": 0, "errors": 0, "rate_per_s": 0.0, "error_share": None, "p50_ms": None, "p99_ms": None},
    }


def trouble():
    status = fine()
    refused = "the token endpoint refused the login: it answered 401 Unauthorized; check the login and password"
    plant = credential("plant", **{**NONE, "state": "refused", "usable": False, "trouble": "all", "next_attempt_in_s": 713.2,
                                   "failures": 3, "error": refused, "error_word": "refused"})
    crm = credential("crm", kind="oauth2", source="oauth", state="failing", trouble="some", renew_in_s=None,
                     next_attempt_in_s=22.1, failures=4, error_word="unreachable", expires_in_s=302.0,
                     lifetime_left_share=0.084,
                     error="the token endpoint crm.example.com cannot be reached: connection refused")
    failing = [
        {"device": f"line-{at:02}", "state": "refused" if at % 2 else "failing", "expires_in_s": None,
         "failures": 9 - at, "error": refused, "error_word": "refused", "next_attempt_in_s": 713.2, "idle_for_s": 4.0}
        for at in range(3)
    ]
    busy = "the token endpoint answered 429 Too Many Requests"
    fleet = credential("gateways", **{**NONE, "state": "failing", "trouble": "some", "error": busy, "error_word": "unavailable"})
    fleet["devices"] = {
        "counts": {"known": 100_000, "fresh": 99_120, "renewing": 120, "failing": 2, "refused": 2, "idle": 756},
        "login_queue": 41, "logins_in_flight": 8, "max_concurrent_logins": 8, "max_logins_per_second": 50.0,
        "gate": {"closed_for_s": 41.5, "error": busy},
        "renewals": {"within_1m": 312, "within_5m": 1560, "within_15m": 4711, "soonest": []},
        "failing": failing,
    }
    status["credentials"] = [plant, status["credentials"][1], crm, fleet]
    status["routes"][0] = route("twinzo", 420, 40)
    status["routes"].append(route("key", 30, credentials=["alerts"], refused=812, refused_share=1.0, rate_per_s=3.1))
    status["unrouted"] = {**status["unrouted"], "requests": 71, "rate_per_s": 0.4}
    status["ready"], status["not_ready_because"] = False, "no usable credential: plant"
    return status


def fleet(known=0, **counts):
    """A status with nothing but a credential for devices."""
    known = known or sum(counts.values())
    bad, busy = counts.get("refused", 0) + counts.get("failing", 0), known - counts.get("idle", 0)
    trouble = "all" if bad == known else "some" if bad * 20 > busy else None
    state = next(one for one in ["refused", "failing", "renewing", "fresh", "idle"] if counts.get(one))
    one = credential("gateways", **{**NONE, "state": state, "trouble": trouble, "usable": counts.get("fresh", 0) > 0})
    one["devices"] = {
        "counts": {"known": known, **{word: 0 for word in ["fresh", "renewing", "failing", "refused", "idle"]}, **counts},
        "login_queue": 0, "logins_in_flight": 0, "max_concurrent_logins": 8, "max_logins_per_second": 50.0,
        "gate": None, "renewals": {"within_1m": 0, "within_5m": 0, "within_15m": 0, "soonest": []}, "failing": [],
    }
    return {**fine(), "credentials": [one]}


def problems():
    report = ("error: unknown key 'upsteam'\n  --> /etc/countersign/countersign.toml:14:1\n   |\n"
              "14 | upsteam = \"https://api.twinzo.example.com\"\n   | ^^^^^^^ did you mean 'upstream'?")
    status = fine()
    status["reload"] = {
        "at_s": time.time(), "ago_s": 62.0, "cause": "file", "outcome": "refused", "changes": [],
        "problems": [
            {"message": "unknown key 'upsteam'", "line": 14, "column": 1, "hint": "did you mean 'upstream'?", "report": report},
            {"message": "the credential 'plnat' does not exist", "line": None, "column": None, "hint": None, "report": "error: the credential 'plnat' does not exist"},
        ],
    }
    return status


def requests():
    seqs = iter(range(1, 100))

    def one(path, **more):
        return {
            "seq": next(seqs), "at_ms": NOW_MS, "method": "GET", "path": path, "route": "twinzo", "identity": "",
            "status": 200, "whose": "", "reason": "", "request_id": "01JD067A6680FE05A1B2C3D4E5",
            "wait_us": 1200, "sign_us": 12, "upstream_us": 85_000, "total_us": 87_000, "bytes": 512, **more,
        }

    return [
        one("/twinzo/v3/localization", method="POST"),
        one("/twinzo/v3/devices/with/a/long/path/that/has/to/be/broken/somewhere", identity="line-07"),
        one("/twinzo/v3/sectors", status=503, whose="ours", reason="credential", upstream_us=0, total_us=900, wait_us=800),
        one("/crm/accounts", route="crm", status=401, whose="caller", reason="caller-token-missing"),
        one("/crm/accounts/4711", route="crm", status=404, whose="upstream"),
    ]


CASES = {
    case.__name__: case
    for case in [states, explained, login, keyboard, everywhere, scripted, sentences, many, unseen, broken, bare, live, renew, reloaded]
}


def main():
    case, admin, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--no-proxy-server", "--disable-dev-shm-usage", "--disable-gpu"],
            env={"HOME": home, "TMPDIR": home},
        )
        CASES[case](browser, admin, *arguments)
        browser.close()


main()
