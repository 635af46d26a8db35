#!/usr/bin/env python3
"""The project's own style rules, the ones a formatter can't know. Each finding names what to use instead.

    rules.py [FOLDER]      prints findings as path:line: message, exits 1 when there are any

Comments and the contents of string literals are blanked before the code rules look, so a comment may speak of what code
may not use. test_rules.py plants a violation of every rule and expects it to be found.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys

FILE_LINES_MAX = 900
SKIPPED_FOLDERS = {".git", ".build", "__pycache__", "node_modules"}


class Rule:
    """`pattern` must not occur in files that match `where` and none of `but`; `instead` says what to do."""

    def __init__(self, pattern, where, instead, but=(), raw=False):
        self.pattern = re.compile(pattern)
        self.where = where
        self.instead = instead
        self.but = but
        self.raw = raw  # look at comments and strings too

    def covers(self, path):
        return any(fnmatch.fnmatch(path, glob) for glob in self.where) and not any(
            fnmatch.fnmatch(path, glob) for glob in self.but
        )


CORE = ("Sources/SidecarCore/*.swift",)
PURE = CORE + ("Sources/SidecarBuiltins/*.swift",)
SOURCES = ("Sources/*.swift",)
IMPORT = r"^\s*(@[\w()]+\s+)*((public|package|internal|fileprivate|private)\s+)?import\s+((struct|class|enum|func|protocol|typealias|var|let)\s+)?"


def imports(module):
    return IMPORT + module + r"\b"


RULES = (
    Rule(imports(r"Foundation\w*"), SOURCES, "Foundation costs 40 MB of binary; use the standard library"),
    Rule(
        imports(r"(Glibc|Musl|Darwin|Dispatch|C[A-Z]\w*)"),
        CORE,
        "SidecarCore imports nothing; ask the Driver for it",
        # Codecs that work on memory alone, each behind one folder.
        but=("Sources/SidecarCore/Wire/HTTP2/*.swift", "Sources/SidecarCore/Wire/WebSocket/*.swift"),
    ),
    Rule(
        imports(r"(Glibc|Musl|Darwin|Dispatch|CUV)"),
        ("Sources/SidecarBuiltins/*.swift", "Sources/SidecarSim/*.swift"),
        "system calls belong in SidecarUV; ask the Driver for it",
    ),
    Rule(imports("CUV"), SOURCES, "libuv is visible in SidecarUV only; use the Driver", but=("Sources/SidecarUV/*.swift",)),
    Rule(r"\bTask\s*\.\s*sleep\b", PURE, "arm a timer on driver.timers, so that the simulator owns time"),
    Rule(
        r"\b(ContinuousClock|SuspendingClock|DispatchTime|clock_gettime|gettimeofday)\b|\bDate\s*\(",
        PURE,
        "use driver.now for deadlines, driver.unixNanoseconds for what people read",
    ),
    Rule(r"\bSystemRandomNumberGenerator\b", PURE, "use driver.random, the seeded generator"),
    Rule(
        r"\.random\s*\((?!.*\busing:)|\.(randomElement|shuffle|shuffled)\s*\(\s*\)",
        PURE,
        "draw from driver.random (using:), so that a seed reproduces the run",
    ),
    Rule(r"(?<![\w.])(debugPrint|print|dump)\s*\(", PURE, "return what happened; the runner logs it"),
    Rule(
        r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b",
        ("*.swift", "*.py", "*.sh", "*.js", "*.md", "dev", "*.yaml", "*.h"),
        "finish it, or file it as an issue",
        raw=True,
    ),
)


def blank(source):
    """The source with comments and string contents as spaces; lines and columns stay where they were."""
    out = []
    position, depth, length = 0, 0, len(source)
    while position < length:
        rest = source[position : position + 3]
        if depth:
            if rest.startswith("*/"):
                depth -= 1
                position += 2
                out.append("  ")
            elif rest.startswith("/*"):
                depth += 1
                position += 2
                out.append("  ")
            else:
                out.append("\n" if source[position] == "\n" else " ")
                position += 1
        elif rest.startswith("//"):
            end = source.find("\n", position)
            end = length if end < 0 else end
            out.append(" " * (end - position))
            position = end
        elif rest.startswith("/*"):
            depth = 1
            position += 2
            out.append("  ")
        elif source[position] == '"':
            end = end_of_string(source, position)
            out.append("".join("\n" if c == "\n" else " " for c in source[position:end]))
            position = end
        else:
            out.append(source[position])
            position += 1
    return "".join(out)


def end_of_string(source, start):
    """One past the closing quote of the literal at `start`; an interpolation's own quotes are counted by depth."""
    quote = '"""' if source.startswith('"""', start) else '"'
    position = start + len(quote)
    while position < len(source):
        if source.startswith("\\(", position):
            position = end_of_interpolation(source, position + 2)
        elif source[position] == "\\":
            position += 2
        elif source.startswith(quote, position):
            return position + len(quote)
        elif source[position] == "\n" and quote == '"':
            return position
        else:
            position += 1
    return len(source)


def end_of_interpolation(source, start):
    depth, position = 1, start
    while position < len(source):
        character = source[position]
        if character == '"':
            position = end_of_string(source, position)
            continue
        if character == "\n":
            return position
        depth += {"(": 1, ")": -1}.get(character, 0)
        position += 1
        if depth == 0:
            return position
    return len(source)


def files(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(".build"))
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root)


def findings(root):
    """(path, line, message) of every violation below `root`."""
    for path in files(root):
        rules = [rule for rule in RULES if rule.covers(path)]
        if not rules and not path.endswith(".swift"):
            continue
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            source = stream.read()
        lines = source.split("\n")
        if path.endswith(".swift") and len(lines) - 1 > FILE_LINES_MAX:
            yield path, FILE_LINES_MAX + 1, "more than %d lines; cut it along its ideas" % FILE_LINES_MAX
        first = next((line for line in lines if line.strip() and not re.match(IMPORT, line)), "")
        if path.endswith(".swift") and path.startswith("Sources/") and not first.startswith(("//", "/*")):
            yield path, 1, "the first comment of a file says what it is for"
        code = blank(source).split("\n") if path.endswith(".swift") else lines
        for rule in rules:
            for number, line in enumerate(lines if rule.raw else code, 1):
                if rule.pattern.search(line):
                    yield path, number, "%s: %s" % (lines[number - 1].strip()[:60], rule.instead)


def main(arguments):
    found = sorted(findings(arguments[0] if arguments else "."))
    for path, line, message in found:
        print("%s:%d: %s" % (path, line, message))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
