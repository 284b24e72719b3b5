"""What a run leaves behind to read: events.jsonl, summary.json, report.html and the log. Reads files; decides nothing.

events: the lines of events.jsonl and metrics.jsonl.  eventlog: how the former is written, and thinned.
counters: counters that restart with their process.
units: the recount of the ledger.  course: committed rounds.  story: one fold of all events, bounded.  summary: summary.json.
spans, samples, files: what else the coordinator writes beside the journal.  trace: trace.json.
charts, page, report: report.html.  log: one line a fact.
"""
