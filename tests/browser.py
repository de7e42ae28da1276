"""A headless Chromium, driven over its DevTools protocol: what a user does and sees.

    async with browser(tmp_path) as page:
        await page.open(f"{router.url}/ui")
        await page.click("text=Pause")
        await page.shows("paused")

Mouse and keys are real input events, so what is covered, hidden or out of the window cannot be
clicked. Errors of scripts and refusals of the content policy are kept in `page.complaints`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.processes import Process, Processes
from tests.programs import program
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--no-default-browser-check"),
    *("--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)
# An element by CSS selector, or the smallest that has a text: `text=Pause`.
FIND = """
(given) => {
  const seen = (e) => e.checkVisibility({ visibilityProperty: true });
  if (!given.startsWith("text=")) return [...document.querySelectorAll(given)].find(seen) ?? null;
  const wanted = given.slice(5);
  const fits = [...document.querySelectorAll("body *")]
    .filter((e) => seen(e) && e.textContent.replace(/\\s+/g, " ").trim() === wanted);
  return fits.at(-1) ?? null;
}
"""
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9)}


class PageError(AssertionError):
    """The page has not what was looked for, or a script of it failed."""


class Chromium(Process):
    """The process; ready when it says where it listens."""

    name = "chromium"

    def __init__(self, profile: Path) -> None:
        super().__init__()
        self._program = program("chromium")
        self._profile = profile

    def command(self) -> list[str]:
        return [self._program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]

    async def is_ready(self) -> bool:
        return self._listens.is_file() and len(self._listens.read_text().splitlines()) == 2

    @property
    def _listens(self) -> Path:
        return self._profile / "DevToolsActivePort"

    @property
    def port(self) -> int:
        return int(self._listens.read_text().splitlines()[0])


class Page:
    """One tab. Every wait ends with PageError after some seconds."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read())
        self._number = 0

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        async for message in self._socket:
            said = msgspec.json.decode(message.data, type=dict[str, Any])
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                details = said["params"]["exceptionDetails"]
                self.complaints.append(str(details.get("exception", details).get("description")))
            elif said["method"] == "Log.entryAdded":
                entry = said["params"]["entry"]
                # Answers that are errors are the router's business, and told on the page.
                if entry["level"] == "error" and entry["source"] != "network":
                    self.complaints.append(entry["text"])
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])

    async def tell(self, method: str, **params: object) -> dict[str, Any]:
        """A command of the DevTools protocol. Raises PageError."""
        self._number += 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        await self._socket.send_str(
            msgspec.json.encode({"id": self._number, "method": method, "params": params}).decode()
        )
        said: dict[str, Any] = await asyncio.wait_for(answer, PATIENCE_SECONDS)
        if "error" in said:
            raise PageError(f"{method}: {said['error']['message']}")
        result: dict[str, Any] = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited. Raises PageError."""
        result = await self.tell(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise PageError(f"{script[:200]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of an expression once it is true."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (value := await self.run(script)):
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            seen = await self.run("document.body.innerText")
            raise PageError(f"never true: {script}\nthe page shows:\n{seen}") from None
        return value

    async def open(self, url: str) -> None:
        await self.tell("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def reload(self) -> None:
        await self.run("window.old = true")
        await self.tell("Page.reload")
        await self.until("window.old === undefined && document.readyState === 'complete'")

    async def text(self, selector: str = "body") -> str:
        """The visible text of the first such element."""
        return str(await self.until(f"({FIND})({quoted(selector)})?.innerText"))

    async def texts(self, selector: str) -> list[str]:
        """The texts of all such elements, in order."""
        given = quoted(selector)
        found: list[str] = await self.run(
            f"[...document.querySelectorAll({given})].map((e) => e.innerText)"
        )
        return found

    async def shows(self, text: str, selector: str = "body") -> None:
        """Wait until the element has this text somewhere."""
        await self.until(f"({FIND})({quoted(selector)})?.innerText.includes({quoted(text)})")

    async def click(self, selector: str) -> None:
        """With the mouse, in the middle of what is there: fails if something else is on top."""
        await self.until(f"({FIND})({quoted(selector)}) !== null")
        x, y = await self.until(
            f"""(() => {{
              const e = ({FIND})({quoted(selector)});
              e.scrollIntoView({{ block: "center" }});
              const box = e.getClientRects()[0];
              const at = [box.x + Math.min(box.width / 2, 60), box.y + box.height / 2];
              const hit = document.elementFromPoint(...at);
              return hit !== null && (e.contains(hit) || hit.contains(e)) ? at : null;
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.tell(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def type(self, text: str) -> None:
        """Into what has the focus."""
        await self.tell("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        text, code = KEYS.get(key, (key, 0))
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if kind == "keyDown" and text else {}
            await self.tell(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed
            )

    async def choose(self, selector: str, value: str) -> None:
        """An option of a `<select>`, as soon as it is there."""
        given = quoted(selector)
        await self.until(
            f"[...(document.querySelector({given})?.options ?? [])].some(o => o.value === {quoted(value)})"
        )
        await self.run(
            f"""(() => {{
              const e = document.querySelector({given});
              e.value = {quoted(value)};
              e.dispatchEvent(new Event("change", {{ bubbles: true }}));
            }})()"""
        )

    async def window(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.tell("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        shot = await self.tell("Page.captureScreenshot", captureBeyondViewport=whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


def quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@asynccontextmanager
async def browser(processes: Processes, directory: Path) -> AsyncIterator[Page]:
    """A tab of a browser of its own. Skips the test where there is no Chromium, except in CI."""
    chromium = await processes.start(Chromium(directory / "profile"))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{chromium.port}/json") as response:
            tabs: list[dict[str, str]] = await response.json()
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with session.ws_connect(url, max_msg_size=64 << 20) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.tell(f"{domain}.enable")
            await page.window(1280, 900)
            yield page
            await page.close()
