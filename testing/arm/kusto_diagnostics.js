// Microsoft's own parser and binder of KQL, for tests/infra/monitoring/test_queries_syntax.py.
// Reads {"library": folder, "tables": {table: {column: type}}, "queries": [text]} from standard input and writes, for
// each query, its faults and the columns of its result.
const { library, tables, queries } = JSON.parse(require("fs").readFileSync(0, "utf8"));
require(`${library}/bridge.min.js`);
require(`${library}/Kusto.Language.Bridge.min.js`);

const { GlobalState, KustoCode, Symbols } = Kusto.Language;
const list = (items) => {
  const found = [];
  for (let i = 0; i < items.Count; i++) found.push(items.getItem(i));
  return found;
};
const symbols = Object.entries(tables).map(([table, columns]) => {
  const members = Object.entries(columns).map(
    ([column, type]) => new Symbols.ColumnSymbol(column, Symbols.ScalarTypes.GetSymbol(type)),
  );
  return new Symbols.TableSymbol.$ctor4(table, members);
});
const globals = GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.ctor("workspace", symbols));

const answers = queries.map((query) => {
  const code = KustoCode.ParseAndAnalyze(query, globals);
  const result = code.ResultType;
  return {
    faults: list(code.GetDiagnostics()).map((fault) => `${fault.Code} ${fault.Message}`),
    columns: result && result.Columns ? list(result.Columns).map((column) => [column.Name, column.Type.Name]) : [],
  };
});
console.log(JSON.stringify(answers));
