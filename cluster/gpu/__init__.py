"""The project proved on a host with a GPU and without a network: what travels there (`pack`), and what runs there (`run`).

Only the standard library is imported here: on that host the packages come out of what travels.
"""
