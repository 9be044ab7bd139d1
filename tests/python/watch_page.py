"""Watches the page of live segmentation in Chromium: watch_page.py CHROMIUM URL SCREENSHOTS.

Prints `ready` when the browser runs, `seen` when all is checked but the end of the run, and then waits for that end.
"""

import io
import json
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Error, sync_playwright

LIMIT = 240  # seconds
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--force-device-scale-factor=1",
]


class Outside:
    """A proxy that answers nothing: the browser takes it for every place but this machine."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            connection, _ = self.listener.accept()
            connection.settimeout(5)
            try:
                self.asked.append(connection.recv(200))
            except OSError:
                self.asked.append(b"nothing said")
            connection.close()


def is_of_browser(said):
    """Whether the browser asks its maker for updates and accounts, which it does on no page's behalf."""
    place = said.split(b" ")[1].removeprefix(b"http://").split(b"/")[0].split(b":")[0] if b" " in said else b""
    return place.endswith((b".google.com", b".googleapis.com"))


def wait(what, check):
    end = time.monotonic() + LIMIT
    while not (value := check()):
        assert time.monotonic() < end, f"no {what} in time"
        time.sleep(0.05)
    return value


def slice_of(url, series, index):
    """Header, image and mask of a slice, from the node itself."""
    with urllib.request.urlopen(f"{url}series/{series}/slices/{index}") as answer:
        message = answer.read()
    length = int.from_bytes(message[:4], "little")
    header = json.loads(message[4 : 4 + length])
    shape = (header["rows"], header["columns"])
    layers = np.frombuffer(message[4 + length :], np.uint8).reshape(len(header["layers"]), *shape)
    return header, dict(zip(header["layers"], layers))


def borders(mask, label):
    """Rows and columns of the pixels of a class whose left neighbour is background."""
    left = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return np.argwhere((mask == label) & (left == 0))


def is_colour(pixels, colour):
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 24


def shown(page):
    """What the canvas shows: place and size of a pixel, and a picture of it."""
    box = page.locator("#picture").bounding_box()
    while True:
        data = page.evaluate("({...document.getElementById('picture').dataset})")
        screenshot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        if data == page.evaluate("({...document.getElementById('picture').dataset})"):
            break  # else it was drawn again meanwhile
    left, top = box["x"] + float(data["left"]), box["y"] + float(data["top"])
    return data, (left, top, float(data["stepX"]), float(data["stepY"])), np.asarray(screenshot)


def share_on_border(picture, place, mask, label, colour):
    """Part of the left borders of a class on which its colour is, one pixel of the screen around included."""
    left, top, step_x, step_y = place
    hits = []
    for row, column in borders(mask, label):
        x, y = round(left + column * step_x), top + (row + 0.5) * step_y
        around = picture[round(y - step_y / 3) : round(y + step_y / 3) + 1, x - 1 : x + 2]
        hits.append(is_colour(around, colour).any())
    return np.mean(hits) if hits else 1.0


def hide_texts(page, hidden):
    """The texts above the image, one of which is coloured."""
    page.eval_on_selector_all(".corner", f"all => all.forEach(one => one.hidden = {str(hidden).lower()})")


def check_outlines(page, url, series, state):
    """The outlines of a slice that the page holds are where its mask is, in the colours of the classes, and nowhere else."""
    hide_texts(page, True)
    for _ in range(50):
        data, place, picture = shown(page)
        header, layers = slice_of(url, series, int(data["index"]))
        if header["mask"] == data["mask"] == state:
            break
        time.sleep(0.2)
    assert header["mask"] == data["mask"] == state, (header, data)
    mask = layers["mask"]
    labels = [label for label in np.unique(mask) if label]
    assert labels, "nothing to compare"
    boxes = page.locator("#classes input")
    colours = page.eval_on_selector_all("#classes rect", "all => all.map(one => one.getAttribute('fill'))")
    colours = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in colours]
    for label in labels:
        share = share_on_border(picture, place, mask, label, colours[label - 1])
        assert share > 0.95, f"class {label}: {share:.2f} of its border"
    left, top, step_x, step_y = place
    x, y = int(left), int(top)
    inside = picture[y : y + int(mask.shape[0] * step_y), x : x + int(mask.shape[1] * step_x)].astype(int)
    coloured = np.ptp(inside, axis=-1) > 40
    rows, columns = np.argwhere(coloured).T
    near = np.pad(mask > 0, 1)
    near = sum(np.roll(near, (a, b), (0, 1)) for a in (-1, 0, 1) for b in (-1, 0, 1))[1:-1, 1:-1] > 0
    at = np.clip((rows / step_y).astype(int), 0, mask.shape[0] - 1), np.clip((columns / step_x).astype(int), 0, mask.shape[1] - 1)
    assert near[at].all(), "colour where no class is"
    for place in range(boxes.count()):
        boxes.nth(place).uncheck()
    _, _, picture = shown(page)
    inside = picture[y : y + inside.shape[0], x : x + inside.shape[1]].astype(int)
    assert np.ptp(inside, axis=-1).max() == 0, "outlines of classes that are off"
    for place in range(boxes.count()):
        boxes.nth(place).check()
    hide_texts(page, False)


def watch(page, url, screenshots):
    page.set_viewport_size({"width": 1280, "height": 800})

    def loads():
        try:
            return page.goto(url)
        except Error:
            return None

    answer = wait("page", loads)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    canvas = page.locator("#picture")
    wait("provisional mask", lambda: canvas.get_attribute("data-mask") == "provisional")
    page.click("#follow")  # hold this slice
    series = page.evaluate("fetch('series').then(answer => answer.json())")[0]["id"]
    check_outlines(page, url, series, "provisional")
    page.screenshot(path=screenshots / "provisional.png")

    held = canvas.get_attribute("data-index")
    wait("final mask of the slice that is held", lambda: canvas.get_attribute("data-mask") == "final")
    assert canvas.get_attribute("data-index") == held
    check_outlines(page, url, series, "final")
    wait("complete series", lambda: page.locator("#series .complete").count() == 1)
    before = canvas.get_attribute("data-index")
    page.keyboard.press("ArrowLeft" if page.locator("#slider").input_value() != "0" else "ArrowRight")
    wait("another slice", lambda: canvas.get_attribute("data-index") != before)
    check_outlines(page, url, series, "final")
    page.screenshot(path=screenshots / "final.png")
    assert page.locator("#classes li").all_inner_texts()[0].startswith("one")


def main():
    chromium, url, screenshots = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    screenshots.mkdir(exist_ok=True)
    outside, requests, errors = Outside(), [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*FLAGS, f"--proxy-server=127.0.0.1:{outside.port}"])
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("websocket", lambda made: requests.append(made.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        print("ready", flush=True)
        watch(page, url, screenshots)
        errors += page.evaluate("performance.getEntriesByType('resource').map(one => one.name)"
                                f".filter(name => !name.startsWith({url!r}))")
        assert not errors, errors
        print("seen", flush=True)
        wait("end of the run", lambda: page.locator("#link").inner_text() == "the run has ended")
        browser.close()
    host = url.split("//")[1]
    elsewhere = [one for one in requests if one.split("://")[1].split("/")[0] + "/" != host]
    assert len(requests) > 6 and not elsewhere, elsewhere
    of_page = [said for said in outside.asked if not is_of_browser(said)]
    assert not of_page, of_page


if __name__ == "__main__":
    main()
