// Lays JSON out by lines without parsing its values, so that a version beyond 2^53 is shown as it was sent.
const TOKEN = /\s*(?:("(?:[^"\\\u0000-\u001f]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)|([{}[\],:]))/uy;
const DEPTH_MAX = 64;

/** Return lines `{indent, text, path}`, or null if the text is not JSON; `path` is that of the value on the line. */
export function linesOf(text) {
  const tokens = tokensOf(text);
  if (!tokens) return null;
  const lines = [];
  try {
    const end = value(tokens, 0, { indent: 0, prefix: "", path: [] }, lines);
    return end === tokens.length ? lines : null;
  } catch {
    return null;
  }
}

function tokensOf(text) {
  const tokens = [];
  const end = text.trimEnd().length;
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < end) {
    const match = TOKEN.exec(text);
    if (!match) return null;
    tokens.push(match[1] ?? match[2] ?? match[3]);
  }
  return tokens;
}

function value(tokens, at, place, lines) {
  if (place.indent > DEPTH_MAX) throw new RangeError("too deep");
  const token = tokens[at];
  if (token === "{") return members(tokens, at + 1, place, lines, "{", "}");
  if (token === "[") return members(tokens, at + 1, place, lines, "[", "]");
  if (token === undefined || "}],:".includes(token)) throw new SyntaxError("no value");
  lines.push({ indent: place.indent, text: place.prefix + token, path: place.path });
  return at + 1;
}

function members(tokens, start, place, lines, open, close) {
  let at = start;
  if (tokens[at] === close) {
    lines.push({ indent: place.indent, text: place.prefix + open + close, path: place.path });
    return at + 1;
  }
  lines.push({ indent: place.indent, text: place.prefix + open, path: place.path });
  for (let index = 0; ; index += 1) {
    const name = open === "{" ? tokens[at] : null;
    if (name !== null) {
      if (name[0] !== '"' || tokens[at + 1] !== ":") throw new SyntaxError("no member");
      at += 2;
    }
    const path = [...place.path, name === null ? index : JSON.parse(name)];
    at = value(tokens, at, { indent: place.indent + 1, prefix: name === null ? "" : `${name}: `, path }, lines);
    if (tokens[at] === close) break;
    if (tokens[at] !== ",") throw new SyntaxError("no comma");
    lines.at(-1).text += ",";
    at += 1;
  }
  lines.push({ indent: place.indent, text: close, path: null });
  return at + 1;
}
