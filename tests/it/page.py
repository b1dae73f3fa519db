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
PICTURES = TOP / "target" / "page"

# Instead of what the listener streams, the test says what comes: `feed.push(kind, value)`.
SCRIPTED = """
const real = window.fetch;
let controller;
const feed = { cut() { controller.close(); }, push(kind, value) {
  controller.enqueue(new TextEncoder().encode(`event: ${kind}\\ndata: ${JSON.stringify(value)}\\n\\n`));
} };
window.feed = feed;
window.fetch = (url, options) => String(url).endsWith("api/events") && !window.feedIsGone
  ? Promise.resolve(new Response(new ReadableStream({ start(c) { controller = c; feed.there = true; } })))
  : real(url, options);
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

    def push(self, kind, *values):
        self.page.wait_for_function("window.feed && window.feed.there")
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
    page.expect("#verdict-more", "Also in trouble: crm, gateways")
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
    page.push("request", {**requests()[0], "path": "/later"})
    page.expect("#requests-note", "^Paused, 1 newer request")
    expect(rows).to_have_count(5)
    page.click("#requests-pause")
    expect(rows).to_have_count(6)
    expect(rows.first).to_contain_text("/later")
    ok("it can be paused, and nothing is lost")
    page.push("missed", {"requests": 12})
    page.expect("#requests-note", "12 came faster")
    page.evaluate(
        "(one) => { for (let i = 0; i < 300; i += 1) window.feed.push('request', { ...one, path: `/many/${i}` }); }",
        requests()[0],
    )
    page.expect("#requests-body tr", "/many/299")
    expect(rows).to_have_count(200)
    ok("no more than 200 are kept")
    hostile = {**requests()[0], "path": "/<img src=x onerror=alert(1)>", "identity": "<b>x</b>", "reason": "</td><script>"}
    page.push("request", hostile)
    expect(rows.first).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#requests-body img, #requests-body b, #requests-body script").count() == 0
    ok("what callers send is text")
    page.evaluate("window.feedIsGone = true")
    page.route("**/api/events", lambda route: route.abort())
    page.evaluate("window.feed.cut()")
    page.expect("#link-text", "^reconnecting…$")
    page.expect("#verdict-title", "^No answer from countersign$")
    page.expect("#verdict-more", r"What is below is .* old")
    page.picture("lost-light")
    ok("a lost connection is not called well")
    page.unroute("**/api/events")
    page.expect("#link-text", "^live$")
    page.expect("#verdict-title", "credential")
    ok("it comes back by itself")
    page.close([r"ERR_FAILED"])


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
        "clock_skew_s": 0.0, "replays": 0, **more,
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
        "errors": 12, "rate_per_s": 42.3, "error_share": 0.031 if errors else 0.0, "p50_ms": 9.2,
        "p99_ms": 84.0, "history": history, **more,
    }


def fine():
    fixed = credential("alerts", kind="devo-token", source="fixed", **{**NONE, "last_renewal": None})
    idle = {"rate_per_s": 0.0, "error_share": None, "p50_ms": None, "p99_ms": None, "history": []}
    quiet = route("crm", 0, methods=["GET", "POST"], host="crm.example.com", credentials=["crm"], identity="X-Device", **{**idle})
    return {
        "version": "0.1.0", "uptime_s": 93784.2, "in_flight": 3, "upstreams": [], "log": None,
        "reload": {"at_s": time.time(), "ago_s": 620.0, "cause": "signal", "outcome": "taken", "changes": ["route crm: added"], "problems": []},
        "credentials": [credential("plant"), fixed, credential("crm", kind="oauth2", source="oauth", clock_skew_s=-42.5, replays=3)],
        "routes": [route("twinzo", 420), quiet],
    }


def trouble():
    status = fine()
    refused = "the token endpoint refused the login: it answered 401 Unauthorized; check the login and password"
    plant = credential("plant", **{**NONE, "state": "refused", "usable": False, "next_attempt_in_s": 713.2,
                                   "failures": 3, "error": refused, "error_word": "refused"})
    crm = credential("crm", kind="oauth2", source="oauth", state="failing", renew_in_s=None,
                     next_attempt_in_s=22.1, failures=4, error_word="unreachable", expires_in_s=302.0,
                     lifetime_left_share=0.084,
                     error="the token endpoint crm.example.com cannot be reached: connection refused")
    failing = [
        {"device": f"line-{at:02}", "state": "refused" if at % 2 else "failing", "expires_in_s": None,
         "failures": 9 - at, "error": refused, "error_word": "refused", "next_attempt_in_s": 713.2, "idle_for_s": 4.0}
        for at in range(3)
    ]
    busy = "the token endpoint answered 429 Too Many Requests"
    fleet = credential("gateways", **{**NONE, "state": "failing", "error": busy, "error_word": "unavailable"})
    fleet["devices"] = {
        "counts": {"known": 100_000, "fresh": 99_120, "renewing": 120, "failing": 2, "refused": 2, "idle": 756},
        "login_queue": 41, "logins_in_flight": 8, "max_concurrent_logins": 8, "max_logins_per_second": 50.0,
        "gate": {"closed_for_s": 41.5, "error": busy},
        "renewals": {"within_1m": 312, "within_5m": 1560, "within_15m": 4711, "soonest": []},
        "failing": failing,
    }
    status["credentials"] = [plant, status["credentials"][1], crm, fleet]
    status["routes"][0] = route("twinzo", 420, 40)
    return status


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
    def one(path, **more):
        return {
            "at_ms": 1_700_000_000_123, "method": "GET", "path": path, "route": "twinzo", "identity": "",
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
    for case in [states, explained, login, keyboard, everywhere, scripted, bare, live, renew, reloaded]
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
