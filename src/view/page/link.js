// What the page gets from the node: the state of all series, and slices.

const AGAIN_AFTER = 1000; // milliseconds until a lost connection is tried again

/** Header and layers of a slice; see the node's documentation of the message. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const pixels = header.rows * header.columns;
  const slice = { ...header };
  header.layers.forEach((layer, place) => {
    slice[layer + "_pixels"] = new Uint8Array(buffer, 4 + length + place * pixels, pixels);
  });
  return slice;
}

/** A connection that is made again when it is lost. `ended`: why the node has closed the one before. */
export function connect({ onState, onSlice, onLink }, ended = "") {
  const address = new URL("ws", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    ended = "";
    onLink("open", "connected");
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      onSlice(decode(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.kind === "state") onState(message);
  };
  socket.onclose = ({ reason }) => {
    const why = reason || ended;
    if (why) onLink("ended", why);
    else onLink("lost", "no connection; trying again");
    setTimeout(() => connect({ onState, onSlice, onLink }, why), AGAIN_AFTER);
  };
}

/** The images of a series by location; null if the series is gone. */
export async function slicesOf(series) {
  const answer = await fetch(`series/${encodeURIComponent(series)}`);
  return answer.ok ? answer.json() : null;
}

/** One slice; null if it is gone. */
export async function sliceOf(series, index) {
  const answer = await fetch(`series/${encodeURIComponent(series)}/slices/${index}`);
  return answer.ok ? decode(await answer.arrayBuffer()) : null;
}
