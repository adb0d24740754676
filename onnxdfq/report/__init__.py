"""Everything a run decided, assumed and measured; JSON is the source, tables are views of it."""
