"""Losses to run rules on: quadratics, classics, and real data with exact Hessians."""
