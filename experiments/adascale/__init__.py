"""Does AdaScale keep the quality of a small batch at every batch size?"""
