"""`modelyard score`: the rows of a file, by the rules of the server.

Checked as a request's rows are, a bounded number at a time; what does not fit is put aside.
"""
