"""What the join was given and what it decided, in memory for a short time or in a file, and the same again from there.

The join depends on nothing else, so a recording decides anew as it was decided then, on any machine: no kernel, no
privilege, no network. The order of the entries is that in which the policy's one thread did what they say.
"""
