"""What a person or a workflow calls: `modelyard release …` and `modelyard render`.

Options and exit codes are here; what is done is on the floors below.
"""
