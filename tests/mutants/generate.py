"""Every mutant of a module: mutmut's operators, and statements that are left out.

mutmut's own runner leaves out whatever has a decorator (properties, context managers) and what is
outside of functions; its operators are used here on all of a module.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst
from libcst import matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

# Nothing there is computed, or, as mutmut says of the calls, every mutant dies at once.
_LEFT_ALONE = (
    m.Annotation()
    | m.Decorator()
    | m.ImportFrom()
    | m.Import()
    | m.If(test=m.Name("TYPE_CHECKING"))
    | m.Call(func=m.Name("len") | m.Name("isinstance"))
)

_STATEMENTS = cst.SimpleStatementLine | cst.BaseCompoundStatement | cst.ExceptHandler


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: the module, from the root of the repository.
        function: the qualified name of the outermost function that is changed, and only its body;
            empty where something else is.
        line: where, from 1.
        lines: from the first of the statement to the last of what is changed.
        old, new: the line or lines, in one line each.
        wording: it changes a text that somebody reads, and nothing else.
        source: the whole module, changed.
    """

    path: str
    function: str
    line: int
    lines: range
    old: str
    new: str
    wording: bool
    source: str

    @property
    def name(self) -> str:
        """Says which it is also after lines before it have come or gone."""
        return f"{self.path} {self.function or '-'}: {self.old} -> {self.new}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All mutants of a module that are Python, differ from it and from each other."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    collector = _Collector(wrapper.module)
    wrapper.visit(collector)
    tree = ast.dump(ast.parse(source))
    found: dict[str, Mutant] = {}
    for change in collector.changes:
        mutated = _replaced(source, change)
        try:
            same = ast.dump(ast.parse(mutated)) == tree
        except SyntaxError:
            continue
        if not same and mutated not in found:
            old, new = _differing_lines(source, mutated)
            line, lines = (
                change.place.start.line,
                range(change.first, change.place.end.line + 1),
            )
            found[mutated] = Mutant(
                path, change.function, line, lines, old, new, change.wording, mutated
            )
    return list(found.values())


@dataclass(frozen=True)
class _Change:
    """What is written in the place of a node."""

    place: CodeRange
    text: str
    function: str
    first: int
    wording: bool


def _replaced(source: str, change: _Change) -> str:
    lines = source.splitlines(keepends=True)
    start, end = change.place.start, change.place.end
    before, after = lines[start.line - 1][: start.column], lines[end.line - 1][end.column :]
    return "".join([*lines[: start.line - 1], before + change.text + after, *lines[end.line :]])


class _Collector(cst.CSTVisitor):
    """Each node with what may take its place."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, module: cst.Module) -> None:
        super().__init__()
        self.changes: list[_Change] = []
        self._module = module
        self._statements: list[cst.CSTNode] = []  # that are around
        self._scopes: list[str] = []  # of the classes and functions around
        self._bodies: list[cst.CSTNode] = []  # of the functions around
        self._messages = 0  # how many `raise` and calls that make a message are around

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, _LEFT_ALONE) or self._is_docstring(node):
            return False
        self._messages += _makes_a_message(node)
        if isinstance(node, _STATEMENTS):
            self._statements.append(node)
        for changed in _changes(node):
            self._note(node, changed)
        return super().on_visit(node)

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if m.matches(original_node, _LEFT_ALONE) or self._is_docstring(original_node):
            return
        self._messages -= _makes_a_message(original_node)
        if isinstance(original_node, _STATEMENTS):
            self._statements.pop()
        super().on_leave(original_node)

    def _note(self, node: cst.CSTNode, changed: cst.CSTNode) -> None:
        place = self.get_metadata(PositionProvider, node)
        if isinstance(changed, cst.BaseExpression) and getattr(node, "lpar", ()):
            changed = changed.with_changes(lpar=(), rpar=())  # the place is inside of them
        first = self.get_metadata(PositionProvider, self._statements[-1]).start.line
        self.changes.append(
            _Change(
                place,
                self._module.code_for_node(changed).strip(),
                ".".join(self._scopes) if self._bodies else "",
                first,
                wording=self._messages > 0 and isinstance(node, cst.BaseString),
            )
        )

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        if not self._bodies:
            self._scopes.append(node.name.value)

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:
        if not self._bodies:
            self._scopes.pop()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        if not self._bodies:
            self._scopes.append(node.name.value)

    def visit_FunctionDef_body(self, node: cst.FunctionDef) -> None:
        self._bodies.append(node)

    def leave_FunctionDef_body(self, node: cst.FunctionDef) -> None:
        self._bodies.pop()

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:
        if not self._bodies:
            self._scopes.pop()

    @staticmethod
    def _is_docstring(node: cst.CSTNode) -> bool:
        return m.matches(node, m.Expr(value=m.SimpleString() | m.ConcatenatedString()))


def _makes_a_message(node: cst.CSTNode) -> bool:
    names = ("damaged", "_refuse", "warn", "os_errors_as_data_errors")
    call = m.Call(
        func=m.OneOf(*map(m.Name, names)) | m.Attribute(attr=m.OneOf(*map(m.Name, names)))
    )
    words = m.AssignTarget(target=m.Name("remedy") | m.Name("expected"))
    return m.matches(node, m.Raise() | call | m.Assign(targets=[words]))


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call | cst.Await):
        yield cst.Expr(cst.Name("None"))  # the call is left out
    if isinstance(node, cst.Raise):
        yield cst.Pass()


def _differing_lines(old: str, new: str) -> tuple[str, str]:
    before, after = old.splitlines(), new.splitlines()
    first = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after)
    )
    last = 0
    while last < min(len(before), len(after)) - first and before[-1 - last] == after[-1 - last]:
        last += 1
    old_lines, new_lines = before[first : len(before) - last], after[first : len(after) - last]
    return " ".join(map(str.strip, old_lines)), " ".join(map(str.strip, new_lines))
