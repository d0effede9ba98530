"""The programming language of a file, by its name and its first line."""

from __future__ import annotations

import re

_BY_ENDING = """
ada: adb ads
assembly: s asm
awk: awk
batch: bat cmd
c: c h
c#: cs csx
c++: cc cpp cxx c++ hh hpp hxx ipp inl
clojure: clj cljs cljc edn
cmake: cmake
crystal: cr
css: css scss sass less
cuda: cu cuh
d: d
dart: dart
diff: diff patch
elixir: ex exs
elm: elm
erlang: erl hrl
f#: fs fsi fsx
fortran: f f77 f90 f95 f03 f08 for
glsl: glsl vert frag comp hlsl wgsl metal
go: go
graphql: graphql gql
groovy: groovy gradle
haskell: hs lhs
hcl: tf hcl
html: html htm xhtml vue svelte
idris: idr
ini: ini cfg
java: java
javascript: js jsx mjs cjs
json: json jsonc json5
julia: jl
jupyter: ipynb
kotlin: kt kts
latex: tex sty cls
lean: lean
lisp: lisp lsp cl el
lua: lua
makefile: mk mak
markdown: md markdown
nim: nim
nix: nix
objective-c: m mm
ocaml: ml mli
pascal: pas dpr
perl: pl pm
php: php phtml
powershell: ps1 psm1 psd1
prolog: pro prolog
protobuf: proto
puppet: pp
python: py pyi pyw pyx pxd
r: r rmd
racket: rkt
restructuredtext: rst
ruby: rb rake gemspec
rust: rs
scala: scala sc sbt
scheme: scm ss
shell: sh bash zsh fish ksh
solidity: sol
sql: sql
swift: swift
systemverilog: sv svh
tcl: tcl
text: txt
thrift: thrift
toml: toml
typescript: ts tsx mts cts
verilog: v vh
vhdl: vhd vhdl
vim: vim
visual basic: vb bas
xml: xml xsd xsl xslt
yaml: yaml yml
zig: zig
"""
LANGUAGES = {
    ending: language
    for line in _BY_ENDING.strip().splitlines()
    for language, _, endings in [line.partition(":")]
    for ending in endings.split()
}
_BY_NAME = {
    "makefile": "makefile", "gnumakefile": "makefile", "dockerfile": "dockerfile", "containerfile": "dockerfile",
    "cmakelists.txt": "cmake", "jenkinsfile": "groovy", "rakefile": "ruby", "gemfile": "ruby", "vagrantfile": "ruby",
    "justfile": "makefile", "meson.build": "meson", "build.bazel": "starlark", "workspace": "starlark",
    "build": "starlark", "readme": "text",
}  # fmt: skip
_INTERPRETERS = {
    "python": "python", "pypy": "python", "node": "javascript", "deno": "typescript", "bun": "typescript",
    "sh": "shell", "bash": "shell", "zsh": "shell", "dash": "shell", "ksh": "shell", "fish": "shell", "perl": "perl",
    "ruby": "ruby", "lua": "lua", "php": "php", "rscript": "r", "julia": "julia", "awk": "awk", "gawk": "awk",
    "tclsh": "tcl", "escript": "erlang", "elixir": "elixir", "racket": "racket", "runhaskell": "haskell",
    "swift": "swift", "scala": "scala", "groovy": "groovy", "pwsh": "powershell", "make": "makefile",
}  # fmt: skip
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env(?:\s+-\S+|\s+\w+=\S+)*\s+(?:\S*/)?)?([a-zA-Z]+)")


def language_of(name: str, text: str) -> str:
    """A lower-case name such as "python" or "c++"; "" if neither ending nor shebang says it."""
    file = name.rsplit("/", 1)[-1].lower()
    if file in _BY_NAME:
        return _BY_NAME[file]
    ending = file.rsplit(".", 1)[-1] if "." in file else ""
    if ending in LANGUAGES:
        return LANGUAGES[ending]
    found = _SHEBANG.match(text[:200])
    return _INTERPRETERS.get(found[1].lower(), "") if found else ""
