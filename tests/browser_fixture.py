"""Pages opened in a real Chromium without a window: what they print, and what scripts measured."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from base64 import b64encode
from html import unescape

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
# A window is never narrower than 500 pixels, a frame is: each page stands in a frame as wide as a
# phone and tells its measures to the page around it.
FRAMES = """<!doctype html><html><head><title>{}</title></head><body>%s<script>
addEventListener("message", (event) => {
  const told = JSON.parse(document.title);
  const frames = [...document.querySelectorAll("iframe")];
  told[frames.find((f) => f.contentWindow === event.source).name] = event.data;
  document.title = JSON.stringify(told);
});
</script></body></html>"""


def frames_of(tmp_path, pages, width):
    """A page that holds the given pages, by name, in frames of this width."""
    frames = []
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
        frames.append(f'<iframe name="{name}" src="{name}.html" width="{width}" height="800" '
                      'style="border:0"></iframe>')  # fmt: skip
    return FRAMES % "".join(frames)


def browse(tmp_path, html):
    """(dumped DOM, console lines) of a page opened from a file."""
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=1500",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900",
        "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "NO_AT_BRIDGE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=environment, check=False
    )
    assert done.stdout.rstrip().endswith("</html>"), done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(html, script):
    """The page with one more script, which its policy is taught to allow."""
    allowed = "sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("script-src '", f"script-src '{allowed}' '", 1)
    return html.replace("</body>", f"<script>{script}</script></body>")


def measured(dom):
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL).group(1)))
