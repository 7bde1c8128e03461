"""What hostile callers send: a table for each area, counted in docs/threat-model.md."""

from __future__ import annotations

from tests.serve.abuse.wire import GOOD

# --- keys ---------------------------------------------------------------------------------------

KEY = "kiln_" + "k3Y-" * 10 + "ab7"

WRONG_KEYS: dict[str, tuple[str, list[bytes]]] = {  # path, headers
    "none": ("/predict", []),
    "empty": ("/predict", [b"X-API-Key:"]),
    "spaces": ("/predict", [b"X-API-Key:    "]),
    "another": ("/predict", [b"X-API-Key: kiln_" + b"x" * 43]),
    "one character less": ("/predict", [b"X-API-Key: " + KEY[:-1].encode()]),
    "one character more": ("/predict", [b"X-API-Key: " + KEY.encode() + b"x"]),
    "other case": ("/predict", [b"X-API-Key: " + KEY.upper().encode()]),
    "in quotes": ("/predict", [b'X-API-Key: "' + KEY.encode() + b'"']),
    "in the query": (f"/predict?x-api-key={KEY}&api_key={KEY}&key={KEY}", []),
    "in a cookie": ("/predict", [b"Cookie: x-api-key=" + KEY.encode()]),
    "basic": ("/predict", [b"Authorization: Basic " + KEY.encode()]),
    "no scheme": ("/predict", [b"Authorization: " + KEY.encode()]),
    "scheme without space": ("/predict", [b"Authorization: Bearer" + KEY.encode()]),
    "other header": ("/predict", [b"X_API_Key: " + KEY.encode()]),
    "proxy's header": ("/predict", [b"Proxy-Authorization: Bearer " + KEY.encode()]),
    "bytes beyond ASCII": ("/predict", [b"X-API-Key: " + bytes(range(0x80, 0x100))]),
    "long": ("/predict", [b"X-API-Key: " + b"k" * 48 * 1024]),
    "two, the wrong one first": ("/predict", [b"X-API-Key: x", b"X-API-Key: " + KEY.encode()]),
    "both, in one header": ("/predict", [b"X-API-Key: x, " + KEY.encode()]),
    "wrong beside right bearer": (
        "/predict",
        [b"X-API-Key: x", b"Authorization: Bearer " + KEY.encode()],
    ),
    "for a batch, none": ("/predict/batch", []),
    "for a batch, another": ("/predict/batch", [b"X-API-Key: x"]),
    "address of this machine": ("/predict", [b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: ::1"]),
    "another path's": ("/predict", [b"X-Original-URL: /health", b"X-Rewrite-URL: /health"]),
}

# --- where a request ends -----------------------------------------------------------------------

HIDDEN_PATH = "/hidden-in-another"
HIDDEN = f"GET {HIDDEN_PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
_POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n"
_END = b"\r\n0\r\n\r\n"
_SIZE = b"Content-Length: %d\r\n\r\n" % len(HIDDEN)
_H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQC"


def _with(*fields: bytes, body: bytes = b"abc") -> bytes:
    return _POST + b"\r\n".join(fields) + b"\r\n\r\n" + body + HIDDEN


AMBIGUOUS: dict[str, bytes] = {  # two readers may find two ends
    "length, then chunked": _with(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunked, then length": _with(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"
    ),
    "two lengths": _with(b"Content-Length: 3", b"Content-Length: %d" % (3 + len(HIDDEN))),
    "a length twice": _with(b"Content-Length: 3", b"Content-Length: 3"),
    "a list of lengths": _with(b"Content-Length: 3, 3"),
    "length +3": _with(b"Content-Length: +3"),
    "length -3": _with(b"Content-Length: -3"),
    "length 0x3": _with(b"Content-Length: 0x3"),
    "length 3 3": _with(b"Content-Length: 3 3"),
    "length 1_0": _with(b"Content-Length: 1_0"),
    "length 3.0": _with(b"Content-Length: 3.0"),
    "length in Arabic digits": _with("Content-Length: ٣".encode()),
    "empty length": _with(b"Content-Length: "),
    "length beyond 64 bits": _with(b"Content-Length: 18446744073709551619"),
    "folded encoding": _with(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 3"),
    "folded field": _with(b"X-A: b\r\n c", b"Content-Length: 3"),
    "first field folded": b"GET /health HTTP/1.1\r\n Host: x\r\n\r\n" + HIDDEN,
    "LF alone": _with(b"Content-Length: 3").replace(b"\r\n", b"\n"),
    "LF alone in a field": _with(b"X-A: b\nTransfer-Encoding: chunked", b"Content-Length: 3"),
    "CR alone in a field": _with(b"X-A: b\rTransfer-Encoding: chunked", b"Content-Length: 3"),
    "xchunked": _with(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "xchunked and length": _with(b"Transfer-Encoding: xchunked", b"Content-Length: 3"),
    "chunked, identity": _with(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked in quotes": _with(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "gzip, chunked": _with(b"Transfer-Encoding: gzip, chunked", body=b"3\r\nabc" + _END),
    "identity, chunked": _with(b"Transfer-Encoding: identity, chunked", body=b"3\r\nabc" + _END),
    "chunked, chunked": _with(b"Transfer-Encoding: chunked, chunked", body=b"3\r\nabc" + _END),
    "chunked twice": _with(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"3\r\nabc" + _END
    ),
    "chunked in HTTP/1.0": _CHUNKED.replace(b"1.1", b"1.0") + b"\r\n3\r\nabc" + _END + HIDDEN,
    "no host": b"GET /health HTTP/1.1\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /health HTTP/1.1\r\nHost: x\r\nHost: evil.example\r\n\r\n" + HIDDEN,
    "a host twice": b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n" + HIDDEN,
    "host with a path": b"GET /health HTTP/1.1\r\nHost: x/@evil.example/\r\n\r\n" + HIDDEN,
    "host with a user": b"GET /health HTTP/1.1\r\nHost: a@evil.example\r\n\r\n" + HIDDEN,
    "host of a script": b'GET / HTTP/1.1\r\nHost: "><script src=//evil.example>\r\n\r\n' + HIDDEN,
    "a list of hosts": b"GET /health HTTP/1.1\r\nHost: x evil.example\r\n\r\n" + HIDDEN,
    "two encodings": _with(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"
    ),
    "tab before chunked": _with(b"Transfer-Encoding: \x0bchunked", b"Content-Length: 3"),
    "space before the colon": _with(b"Content-Length : 3"),
    "space before chunked's colon": _with(b"Transfer-Encoding : chunked", b"Content-Length: 3"),
    "no colon": _with(b"Content-Length 3"),
    "no name": _with(b": 3", b"Content-Length: 3"),
    "NUL in a name": _with(b"X\0A: 1", b"Content-Length: 3"),
    "NUL in a value": _with(b"X-A: 1\0", b"Content-Length: 3"),
    "NUL in the length": _with(b"Content-Length: 3\0"),
    "chunk of -1": _CHUNKED + b"\r\n-1\r\nabc" + _END + HIDDEN,
    "chunk of 0x3": _CHUNKED + b"\r\n0x3\r\nabc" + _END + HIDDEN,
    "chunk of g": _CHUNKED + b"\r\ng\r\nabc" + _END + HIDDEN,
    "chunk without size": _CHUNKED + b"\r\n\r\nabc" + _END + HIDDEN,
    "chunk beyond 64 bits": _CHUNKED + b"\r\n10000000000000003\r\nabc" + _END + HIDDEN,
    "chunk with a space": _CHUNKED + b"\r\n3 \r\nabc" + _END + HIDDEN,
    "chunk with LF alone": _CHUNKED + b"\r\n3\nabc" + _END + HIDDEN,
    "chunk longer than it says": _CHUNKED + b"\r\n3\r\nabcdef" + _END + HIDDEN,
    "chunk without its end": _CHUNKED + b"\r\n3\r\nabc0\r\n\r\n" + HIDDEN,
    "LF in a chunk's extension": _CHUNKED + b"\r\n3;a=\nx\r\nabc" + _END + HIDDEN,
    "length after the chunks": _CHUNKED
    + b"\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"
    + HIDDEN,
    "HTTP/1.2": b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n" + HIDDEN,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "authority as target": b"GET evil.example:80 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "a tunnel": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "a tunnel to a path": b"CONNECT /predict HTTP/1.1\r\nHost: x\r\n" + _SIZE + HIDDEN,
    "a tunnel to a URL": b"CONNECT http://x/health HTTP/1.1\r\nHost: x\r\n" + _SIZE + HIDDEN,
    "a tunnel to all": b"CONNECT * HTTP/1.1\r\nHost: x\r\n" + _SIZE + HIDDEN,
    "length, then chunked, beside an upgrade": _with(
        *(_H2C, b"Content-Length: 5", b"Transfer-Encoding: chunked"), body=b"0\r\n\r\n"
    ),
    "two lengths beside an upgrade": _with(_H2C, b"Content-Length: 3", b"Content-Length: 9"),
    "a folded upgrade": _with(b"Connection: upgrade", b"Upgrade:\r\n h2c", b"Content-Length: 3"),
    "tab in the line": b"GET\t/health HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "method in small letters": b"get /health HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "space in the target": b"GET /health /x HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 99 + HIDDEN,
}

READ_ONE_WAY: dict[str, tuple[bytes, int]] = {  # what hides is data: one answer, of this status
    "in a body": (_POST + _SIZE + HIDDEN, 400),
    "in a chunk": (_CHUNKED + b"\r\n%x\r\n" % len(HIDDEN) + HIDDEN + _END, 400),
    "in a chunk's extension": (
        _CHUNKED + b"\r\n3;" + HIDDEN.split(b"\r\n")[0].replace(b" ", b"") + b"\r\nabc" + _END,
        400,
    ),
    "in a body of HTTP/1.0": (_POST.replace(b"/1.1", b"/1.0") + _SIZE + HIDDEN, 400),
    "in a body of GET": (b"GET /health HTTP/1.1\r\nHost: x\r\n" + _SIZE + HIDDEN, 200),
    "in a body of OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + _SIZE + HIDDEN, 404),
    "in a body that is refused": (_POST.replace(b"/json", b"/x") + _SIZE + HIDDEN, 415),
    "in a body to nowhere": (_POST.replace(b"/predict", b"/none") + _SIZE + HIDDEN, 404),
    "in a body that waits": (_POST + b"Expect: 100-continue\r\n" + _SIZE + HIDDEN, 400),
    "in a body that expects more": (_POST + b"Expect: more\r\n" + _SIZE + HIDDEN, 400),
    "in a body that is nominated": (
        _POST + b"Connection: content-length\r\n" + _SIZE + HIDDEN,
        400,
    ),
    "in a body beside an upgrade": (
        _POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + _SIZE + HIDDEN,
        400,
    ),
    "in a body beside an upgrade with settings": (_POST + _H2C + b"\r\n" + _SIZE + HIDDEN, 400),
    "in a chunk beside an upgrade": (
        _CHUNKED + _H2C + b"\r\n\r\n%x\r\n" % len(HIDDEN) + HIDDEN + _END,
        400,
    ),
    "in a body beside a WebSocket": (
        _POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + _SIZE + HIDDEN,
        400,
    ),
    "in a body of GET beside an upgrade": (
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + _H2C + b"\r\n" + _SIZE + HIDDEN,
        200,
    ),
    "in a body of HTTP/1.0 beside an upgrade": (
        _POST.replace(b"/1.1", b"/1.0") + _H2C + b"\r\n" + _SIZE + HIDDEN,
        400,
    ),
    "behind HTTP/0.9": (b"GET /health\r\n\r\n" + HIDDEN, 200),
    "behind a connection's last": (
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + HIDDEN,
        200,
    ),
    "whole target of another host": (
        b"GET http://evil.example/health HTTP/1.1\r\nHost: x\r\n\r\n",
        200,
    ),
    "target with another's credentials": (
        b"GET http://a:b@evil.example:80/none HTTP/1.1\r\nHost: x\r\n\r\n",
        404,
    ),
    "fields behind the chunks": (
        _CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX-API-Key: a\r\nHost: evil.example\r\n\r\n",
        400,
    ),
    "no host in HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", 200),
    "an empty host": (b"GET /health HTTP/1.1\r\nHost:\r\n\r\n", 200),
    "IPv6 as host": (b"GET /health HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 200),
    "two spaces in the line": (b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    "empty lines before": (b"\r\n\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
}

# --- offers of another protocol -----------------------------------------------------------------

_SETTINGS = b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA"  # of Java 17


def _first(*fields: bytes) -> bytes:
    return b"\r\n".join([b"POST /predict HTTP/1.1", *fields, b"", b""])


CLIENTS: dict[str, list[bytes]] = {  # what they send first, in packets as they were seen to
    "Java's HttpClient": [
        _first(
            *(b"Connection: Upgrade, HTTP2-Settings", b"Content-Length: %d" % len(GOOD)),
            *(b"Host: 127.0.0.1:8000", _SETTINGS, b"Upgrade: h2c"),
            *(b"User-Agent: Java-http-client/17.0.15", b"Content-Type: application/json"),
        ),
        GOOD,
    ],
    "Java's HttpClient, from a stream": [
        _first(
            *(b"Connection: Upgrade, HTTP2-Settings", b"Host: 127.0.0.1:8000", _SETTINGS),
            *(b"Transfer-encoding: chunked", b"Upgrade: h2c"),
            *(b"User-Agent: Java-http-client/17.0.15", b"Content-Type: application/json"),
        ),
        b"%x\r\n" % len(GOOD) + GOOD + b"\r\n",
        b"0\r\n\r\n",
    ],
    "curl --http2": [
        _first(
            *(b"Host: 127.0.0.1:8000", b"User-Agent: curl/7.88.1"),
            *(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
            *(b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", b"Content-Type: application/json"),
            *(b"Accept: application/json", b"Content-Length: %d" % len(GOOD)),
        )
        + GOOD
    ],
    "a browser's WebSocket": [
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ],
}

# --- headers ------------------------------------------------------------------------------------

EVIL = "evil.example"
FORGED: dict[str, bytes] = {  # nothing of them is in an answer
    "host": b"Host: evil.example",
    "host with a port": b"Host: evil.example:99999",
    "forwarded host": b"X-Forwarded-Host: evil.example",
    "forwarded server": b"X-Forwarded-Server: evil.example",
    "forwarded for": b"X-Forwarded-For: evil.example",
    "forwarded scheme": b"X-Forwarded-Proto: evil.example",
    "forwarded prefix": b"X-Forwarded-Prefix: //evil.example",
    "forwarded": b"Forwarded: host=evil.example;proto=javascript",
    "original URL": b"X-Original-URL: //evil.example",
    "rewritten URL": b"X-Rewrite-URL: //evil.example",
    "request id": b"X-Request-ID: evil.example",
    "request id with escapes": b"X-Request-ID: a%0d%0aSet-Cookie:evil.example",
    "trace": b"traceparent: 00-evil.example-1111111111111111-01",
    "trace, right but for its end": b"traceparent: 00-"
    + b"a" * 32
    + b"-"
    + b"b" * 16
    + b"-01-evil.example",
    "trace state": b"tracestate: evil.example=1",
    "origin": b"Origin: https://evil.example",
    "referrer": b"Referer: https://evil.example/?%0d%0aX:y",
    "languages": b"Accept-Language: evil.example",
    "types": b"Accept: text/evil.example",
    "cookie": b"Cookie: session=evil.example",
    "entity tag": b'If-None-Match: "evil.example"',
    "range": b"Range: bytes=0-evil.example",
    "agent": b"User-Agent: evil.example",
}

METHODS: dict[str, tuple[bytes, list[bytes]]] = {  # of a path that takes GET alone
    "TRACE": (b"TRACE /health HTTP/1.1\r\n", []),
    "TRACE of nowhere": (b"TRACE / HTTP/1.1\r\n", [b"X-Secret: evil.example"]),
    "DELETE": (b"DELETE /health HTTP/1.1\r\n", []),
    "PUT": (b"PUT /site/demo.js HTTP/1.1\r\n", []),
    "PATCH": (b"PATCH /openapi.json HTTP/1.1\r\n", []),
    "PROPFIND": (b"PROPFIND /site/style.css HTTP/1.1\r\n", []),
    "POST that says it is GET": (
        b"POST /health HTTP/1.1\r\n",
        [b"X-HTTP-Method-Override: GET", b"X-Method-Override: GET", b"X-HTTP-Method: GET"],
    ),
    "GET that says it is POST": (
        b"GET /predict?_method=POST HTTP/1.1\r\n",
        [b"X-HTTP-Method-Override: POST"],
    ),
    "preflight": (
        b"OPTIONS /predict HTTP/1.1\r\n",
        [b"Origin: https://evil.example", b"Access-Control-Request-Method: POST"],
    ),
}

# --- paths --------------------------------------------------------------------------------------

PATHS: dict[str, bytes] = {
    "up": b"/../../../../etc/passwd",
    "up from a folder": b"/site/../../../../../etc/passwd",
    "up to the code": b"/site/../keys.py",
    "up and back": b"/site/../site/style.css",
    "dots escaped": b"/site/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "slashes escaped": b"/site/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "escaped twice": b"/site/%252e%252e%252f%252e%252e%252fetc/passwd",
    "backslashes": b"/site/..\\..\\..\\etc\\passwd",
    "backslashes escaped": b"/site/..%5c..%5c..%5cetc%5cpasswd",
    "four dots": b"/site/....//....//etc/passwd",
    "a parameter": b"/site/..;/..;/etc/passwd",
    "a parameter on a file": b"/site/style.css;x=y",
    "a parameter on a route": b"/health;/../predict",
    "two slashes": b"//evil.example/health",
    "two slashes escaped": b"/%2f%2fevil.example/health",
    "slash and backslash": b"/\\evil.example",
    "two slashes within": b"/site//style.css",
    "a slash more": b"/docs/",
    "a folder": b"/site/",
    "NUL": b"/site/style.css%00.png",
    "NUL before a suffix": b"/etc/passwd%00.css",
    "LF": b"/health%0d%0aSet-Cookie:%20a=b",
    "overlong UTF-8": b"/site/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "broken UTF-8": b"/site/%ff%fe",
    "escape of UTF-16": b"/site/%u002e%u002e/etc/passwd",
    "escape cut short": b"/site/%2",
    "escape of no digits": b"/site/%zz",
    "bytes beyond ASCII": b"/site/\xc0\xae\xc0\xae/etc/passwd",
    "an absolute path": b"/site//etc/passwd",
    "a drive": b"/site/c:/windows/win.ini",
    "a URL": b"/site/file:///etc/passwd",
    "this process": b"/proc/self/environ",
    "a hidden file": b"/.git/config",
    "settings": b"/.env",
    "the model": b"/site/../built_in/model.onnx",
    "other case": b"/HEALTH",
    "a script": b"/<script>alert(1)</script>",
    "64 KB": b"/" + b"a" * 64 * 1024,
    "20,000 steps up": b"/site" + b"/.." * 20_000,
}

# --- too much -----------------------------------------------------------------------------------

_FORM = b"multipart/form-data; boundary="


def _part(name: bytes, data: bytes = b"x", boundary: bytes = b"b") -> bytes:
    disposition = b'Content-Disposition: form-data; name="' + name + b'"'
    return b"--" + boundary + b"\r\n" + disposition + b"\r\n\r\n" + data + b"\r\n"


_JSON = b"application/json"
_MANY = b",".join([b'"x"'] * 100_000)

BODIES: dict[str, tuple[str, bytes, bytes, int]] = {  # path, type, body, status
    "batch of 101": (
        "/predict/batch",
        _JSON,
        b'{"images":[' + b",".join([b'""'] * 101) + b"]}",
        422,
    ),
    "batch of 100,000": ("/predict/batch", _JSON, b'{"images":[' + _MANY + b"]}", 422),
    "form of 101 images": ("/predict/batch", _FORM + b"b", _part(b"images") * 101 + b"--b--", 422),
    "form of 60,000 parts": ("/predict", _FORM + b"b", _part(b"a") * 60_000 + b"--b--", 400),
    "a boundary of 40,000": (
        "/predict",
        _FORM + b"b" * 40_000,
        _part(b"image", boundary=b"b" * 40_000) + b"--" + b"b" * 40_000 + b"--",
        400,
    ),
    "a part's name of 1 MB": ("/predict", _FORM + b"b", _part(b"n" * 2**20) + b"--b--", 400),
    "100,000 keys": (
        "/predict",
        _JSON,
        b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
        422,
    ),
    "a key of 1 MB": ("/predict", _JSON, b'{"' + b"k" * 2**20 + b'":1}', 422),
    "a key 100,000 times": ("/predict", _JSON, b"{" + b'"top_k":3,' * 100_000 + GOOD[1:], 200),
    "lists of depth 100,000": ("/predict/batch", _JSON, b'{"images":[' + b"[" * 100_000, 400),
    "objects in images": ("/predict/batch", _JSON, b'{"images":' + b'[{"a":' * 50_000, 400),
    "top_k of 4,000 digits": ("/predict", _JSON, b'{"top_k":' + b"9" * 4000 + b"," + GOOD[1:], 422),
    "top_k of 1e400": ("/predict", _JSON, b'{"top_k":1e400,' + GOOD[1:], 422),
    "top_k of -2^63": ("/predict", _JSON, b'{"top_k":-9223372036854775808,' + GOOD[1:], 422),
    "spaces": ("/predict", _JSON, b" " * 3_000_000, 400),
    "base64 of 4 MB": ("/predict", _JSON, b'{"image":"' + b"A" * 2**22 + b'"}', 415),
    "7 MB": ("/predict", _JSON, b" " * 7 * 2**20, 413),
    "a content type of 40,000": ("/predict", b"a/" + b"b" * 40_000, b"x", 415),
}

_GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"

GROWTH_MB = 48  # of the process, at most, by all that is too much

ENDLESS: dict[str, tuple[bytes, bytes]] = {  # beginning, and what comes again and again
    "headers": (_GET, b"X-1: " + b"a" * 10_000 + b"\r\n"),
    "small headers": (_GET, b"a:b\r\n" * 2000),
    "a header's value": (_GET + b"X-1: ", b"a" * 10_000),
    "a header's name": (_GET, b"a" * 10_000),
    "a path": (b"GET /", b"a" * 10_000),
    "a query": (b"GET /health?", b"a=b&" * 2500),
    "a method": (b"", b"GET" * 3333),
    "empty lines": (b"", b"\r\n" * 5000),
    "fields after the chunks": (_CHUNKED + b"\r\n0\r\n", b"X-1: " + b"a" * 10_000 + b"\r\n"),
    "a field after the chunks": (_CHUNKED + b"\r\n0\r\nX-1: ", b"a" * 10_000),
    "a chunk's extension": (_CHUNKED + b"\r\n3;a=", b"a" * 10_000),
    "a chunk's size": (_CHUNKED + b"\r\n", b"0" * 10_000),
}

# --- the log ------------------------------------------------------------------------------------

FORGERY = '{"level": "error", "message": "forged"}'

LOGGED: dict[str, tuple[bytes, list[bytes], bytes]] = {  # target, headers, body
    "LF in the path": (b"/x%0a" + FORGERY.replace(" ", "%20").encode(), [], b""),
    "CRLF in the path": (b"/x%0d%0aforged", [], b""),
    "escapes of a terminal in the path": (b"/%1b[2J%1b]0;forged%07", [], b""),
    "NUL in the path": (b"/%00forged", [], b""),
    "a line's end of Unicode in the path": (b"/%e2%80%a8forged%e2%80%a9%c2%85", [], b""),
    "text from right to left in the path": (b"/%e2%80%aeforged", [], b""),
    "quotes in the path": (b"/%22,%22level%22:%22error%22,%22x%22:%22%5c", [], b""),
    "format in the path": (b"/%25s%25(message)s{0.__class__}${jndi:ldap://x}", [], b""),
    "broken UTF-8 in the path": (b"/%ff%c3%28", [], b""),
    "a long path": (b"/" + b"%0a" * 10_000, [], b""),
    "LF in the query": (b"/health?a=%0aforged", [], b""),
    "LF in top_k": (b"/predict?top_k=%0aforged", [b"Content-Type: image/png"], b"x"),
    "a header beyond ASCII": (b"/health", [b"User-Agent: \xe2\x80\xa8\xc2\x85forged\x9b2J"], b""),
    "a header with a tab": (b"/health", [b"User-Agent: a\tforged"], b""),
    "a trace": (b"/health", [b"traceparent: 00-\xe2\x80\xa8forged"], b""),
    "a type beyond ASCII": (b"/predict", [b"Content-Type: \xe2\x80\xa8forged/\x9b"], b"x"),
    "LF in a name of JSON": (b"/predict", [b"Content-Type: application/json"], b'{"\\nforged":1}'),
    "escapes in a name of JSON": (
        b"/predict",
        [b"Content-Type: application/json"],
        '{"\\u001b[2J\u2028forged\\u0000":1}'.encode(),
    ),
    "LF in a name of a file": (
        b"/predict",
        [b"Content-Type: multipart/form-data; boundary=b"],
        b'--b\r\nContent-Disposition: form-data; name="a\x1b[2J%0a"; '
        b'filename="\x00\xe2\x80\xa8forged%0a"\r\n\r\nx\r\n--b--',
    ),
    "LF in the form of a form": (
        b"/predict",
        [b"Content-Type: multipart/form-data; boundary=b"],
        b"--b\r\nContent-Disposition: form-data\nforged\r\n\r\nx\r\n--b--",
    ),
    "a key": (b"/predict", [b"X-API-Key: \xe2\x80\xa8forged"], GOOD),
}

# --- addresses ----------------------------------------------------------------------------------


def addresses(port: int) -> dict[str, str]:
    """URLs that lead to a port of this machine, or to one of its files."""
    here = f"127.0.0.1:{port}"
    return {
        "http": f"http://{here}/a.png",
        "https": f"https://{here}/a.png",
        "ftp": f"ftp://{here}/a.png",
        "gopher": f"gopher://{here}/_GET%20/",
        "ldap": f"ldap://{here}/",
        "jar": f"jar:http://{here}/a.jar!/a.png",
        "no scheme": f"//{here}/a.png",
        "user and host": f"http://user@{here}/a.png",
        "number as host": f"http://2130706433:{port}/a.png",
        "IPv6": f"http://[::ffff:127.0.0.1]:{port}/a.png",
        "file": "file:///etc/passwd",
        "path": "/etc/passwd",
        "share": f"\\\\127.0.0.1@{port}\\a.png",
        "data URL of a URL": f"data:http://{here}/a.png;base64,",
        "metadata of AWS": "http://169.254.169.254/latest/meta-data/",
    }


def documents(port: int) -> dict[str, bytes]:
    """Files that name such a URL."""
    url = f"http://127.0.0.1:{port}/".encode()
    entity = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "' + url + b'">]>'
    bombs = b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "' + b"&b;" * 999 + b'">]><a>&c;</a>'
    return {
        "SVG with an image": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="'
        + url
        + b'"/></svg>',
        "SVG with an entity": entity + b"<svg>&b;</svg>",
        "SVG with a style": b'<?xml-stylesheet href="' + url + b'"?><svg/>',
        "XML with a DTD": b'<!DOCTYPE a SYSTEM "' + url + b'"><a/>',
        "XML that grows": bombs,
        "playlist": b"#EXTM3U\n" + url,
        "PostScript": b"%!PS\n(" + url + b") (r) file",
        "MVG": b"push graphic-context\nimage over 0,0 0,0 '" + url + b"'",
        "HTML": b'<img src="' + url + b'">',
        "shortcut": b"[InternetShortcut]\r\nURL=" + url,
    }


AREAS: dict[str, int] = {
    "keys": len(WRONG_KEYS),
    "requests that can be read in two ways": len(AMBIGUOUS),
    "requests that hide another": len(READ_ONE_WAY),
    "offers of another protocol": len(CLIENTS),
    "forged headers": len(FORGED),
    "methods": len(METHODS),
    "paths": len(PATHS),
    "bodies with too much": len(BODIES),
    "requests that do not end": len(ENDLESS),
    "what is logged": len(LOGGED),
    "addresses, in JSON and forms": 2 * len(addresses(0)),
    "documents with addresses, bare and in JSON": 2 * len(documents(0)),
}
