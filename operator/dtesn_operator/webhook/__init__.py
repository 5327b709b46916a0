"""The admission webhook: a TLS server for the API server alone, its certificates, and what it answers."""
