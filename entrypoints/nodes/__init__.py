"""How nodes meet, agree and exchange records."""
