"""Evidence: canonical certificates, the hash-chained ledger, the sealed annex, and their verification."""
