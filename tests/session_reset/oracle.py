"""The judgement the classifier is held against, made from PostgreSQL's own parse tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pglast import ast, enums, parser

from poolkeeper.session_reset.harmless_functions import HARMLESS_FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

HARMLESS_STATEMENTS = (
    ast.RawStmt,
    ast.SelectStmt,
    ast.InsertStmt,
    ast.UpdateStmt,
    ast.DeleteStmt,
    ast.MergeStmt,
    ast.ExplainStmt,
    ast.CopyStmt,
    ast.CreateStmt,
    ast.CreateTableAsStmt,
    ast.IndexStmt,
    ast.AlterTableStmt,
    ast.RenameStmt,
    ast.AlterObjectSchemaStmt,
    ast.AlterObjectDependsStmt,
    ast.AlterTableMoveAllStmt,
    ast.DropStmt,
    ast.DropOwnedStmt,
    ast.DropRoleStmt,
    ast.DropdbStmt,
    ast.DropTableSpaceStmt,
    ast.DropSubscriptionStmt,
    ast.DropUserMappingStmt,
    ast.GrantStmt,
    ast.GrantRoleStmt,
    ast.CommentStmt,
    ast.TruncateStmt,
    ast.LockStmt,
    ast.NotifyStmt,
    ast.VacuumStmt,
    ast.ReindexStmt,
    ast.ClusterStmt,
    ast.CheckPointStmt,
    ast.VariableShowStmt,
    ast.ConstraintsSetStmt,
)
OTHERS_TRANSACTIONS = (
    enums.TransactionStmtKind.TRANS_STMT_PREPARE,
    enums.TransactionStmtKind.TRANS_STMT_COMMIT_PREPARED,
    enums.TransactionStmtKind.TRANS_STMT_ROLLBACK_PREPARED,
)


def harm(sql: str) -> str | None:
    """Why ``sql`` must not be called clean; None if it may be.

    A text the parser refuses is never executed, not even its first statement, so it does no harm.
    """
    try:
        statements = parser.parse_sql(sql)
        tokens = parser.scan(sql)
    except parser.ParseError:
        return None
    octets = sql.encode()
    for token in tokens:
        text = octets[token.start : token.end + 1]
        if token.name == "SCONST" and text.startswith(b"'") and b"\\" in text:
            return "a backslash that standard_conforming_strings decides about"
    for node in _nodes(statements):
        found = _harm_of(node)
        if found:
            return found
    return None


def _nodes(value: object) -> Iterator[ast.Node]:
    if isinstance(value, ast.Node):
        yield value
        for name in value:
            yield from _nodes(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _nodes(item)


def _harm_of(node: ast.Node) -> str | None:
    match node:
        case ast.FuncCall():
            return _harm_of_call(node)
        case ast.RangeVar():
            temporary = node.relpersistence == "t" or (node.schemaname or "").startswith("pg_temp")
            return "a temporary table" if temporary else None
        case ast.SelectStmt(intoClause=ast.IntoClause()):
            return "SELECT INTO"
        case ast.RangeTableSample():
            method = node.method[-1].sval
            return None if method in ("bernoulli", "system") else f"samples by {method}"
        case ast.A_Expr():
            own = len(node.name) > 1 and node.name[0].sval != "pg_catalog"
            return "an operator of somebody's own" if own else None
        case ast.VariableSetStmt():
            local = node.is_local or (
                node.kind == enums.VariableSetKind.VAR_SET_MULTI and node.name == "TRANSACTION"
            )
            return None if local else "SET"
        case ast.TransactionStmt():
            return "two-phase commit" if node.kind in OTHERS_TRANSACTIONS else None
    if type(node).__name__.endswith("Stmt") and not isinstance(node, HARMLESS_STATEMENTS):
        return type(node).__name__
    return None


def _harm_of_call(call: ast.FuncCall) -> str | None:
    if call.funcformat == enums.CoercionForm.COERCE_SQL_SYNTAX:
        return None
    *schema, name = (part.sval for part in call.funcname)
    if schema not in ([], ["pg_catalog"]):
        return f"calls {'.'.join(schema)}.{name}()"
    if name == "set_config":
        arguments = call.args or ()
        local = (
            len(arguments) == 3
            and isinstance(arguments[2], ast.A_Const)
            and isinstance(arguments[2].val, ast.Boolean)
            and arguments[2].val.boolval
        )
        return None if local else "set_config() for the session"
    return None if name in HARMLESS_FUNCTIONS else f"calls {name}()"
