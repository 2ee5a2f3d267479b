"""The configuration: what can be set (`model`), and how it is read (`load`: defaults < file < environment).

The model is made of plain dataclasses and a few value types of our own, so that all three processes can
read it for next to no memory: a validation library costs each of them 12 to 20 MiB resident.
"""
